"""IVON, the improved variational online Newton method (Shen et al. 2024, algorithm 1).

Legend: N training examples. In the paper's letters: h the Hessian's diagonal, delta = heat / (N prior_std^2) the weight
decay, lambda = N / heat the effective sample size (`ess`), and std^2 = 1 / (lambda (h + delta)).
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.posterior.batch import Batch
from tombola.settings import PosteriorSettings, TrainSettings

from .learner import slice_with_grad
from .vi import VI

_BLOCK = 1 << 16  # parameters at a time: what an update reads and writes of them stays in the second-level cache
_LARGEST_ADAM_LR = 0.5  # from here on `train.lr` is taken for a rate that was meant for IVON


class Ivon(VI):
    """Minimises the loss of `VI` by natural gradients: the step of a mean is scaled by its variance, an inverse Hessian.

    The Hessian is not stored: it is 1 / (lambda std^2) - delta. So a state that is rewound, saved, resumed or transplanted
    has its Hessian with it. Deterministic parameters (norm layers, those of a likelihood) are left to the optimiser of the
    settings.
    """

    @classmethod
    def start(cls, posterior: PosteriorSettings, settings: TrainSettings, examples: int) -> PosteriorSettings:
        """Return a start with every std where the Hessian is `hess_init`: `posterior.std` and `std_scale` are not read."""
        check(settings)
        return replace(posterior, std=Constants(settings, examples).initial_std, std_scale="absolute")

    def groups(self) -> list[dict]:
        """Return the groups of the deterministic parameters; `optimiser` steps the others."""
        groups = []
        for where, decayed in self.layout.decay_groups():
            rest = slice(max(where.start, self.sample.n), where.stop)
            if rest.start < rest.stop:
                part = slice_with_grad(self.mean, self.sample.mean_grad, rest)
                groups.append({"params": [part], "factor": 1.0, "decayed": decayed})
        return groups

    def optimiser(self, settings: TrainSettings) -> "IvonUpdate | None":
        """Return the update of means and log stds. Raises TombolaError for settings that IVON cannot have."""
        check(self.settings)
        groups: list[dict] = []
        whole = bool(self.mask.all())
        for where, decayed in self.layout.decay_groups():
            part = slice(where.start, min(where.stop, self.sample.n))
            if part.start < part.stop:
                mean = slice_with_grad(self.mean, self.sample.mean_grad, part)
                log_std = slice_with_grad(self.log_std, self.sample.log_std_grad, part)
                groups.append(
                    {
                        "params": [mean, log_std],
                        "factor": self.settings.ivon_lr / self.settings.lr,
                        "weight_decay": self.settings.weight_decay if decayed else 0.0,
                        "std": self.sample.std[part],
                        "keep": None if whole else self.mask[part].to(mean.dtype),
                        "prior_mean": None if self._prior_mean is None else self._prior_mean[part],
                    }
                )
        constants = Constants(self.settings, self._examples, self.loss_scale)
        return IvonUpdate(groups, self.settings.ivon_lr, constants) if groups else None

    def gradients(self, batch: Batch, step: int, kl_factor: float | Tensor = 1.0) -> Tensor:
        return super().gradients(batch, step, 0.0)  # without the KL term: the prior is part of the update


@dataclass(frozen=True)
class Constants:
    """The numbers of algorithm 1 that settings and data give."""

    settings: TrainSettings
    examples: int
    scale: float = 1.0
    """The factor of the loss per example."""

    @property
    def ess(self) -> float:
        """Lambda = N / heat, the effective sample size."""
        return self.examples / self.settings.heat

    @property
    def delta(self) -> float:
        """Heat / (N prior_std^2): the paper's weight decay, which is the prior's."""
        return 1 / (self.ess * self.settings.prior_std**2)

    @property
    def initial_std(self) -> float:
        """The std at which the Hessian is `hess_init`."""
        return (self.ess * (self.settings.hess_init + self.delta)) ** -0.5


class IvonUpdate(torch.optim.Optimizer):
    """One step of algorithm 1 for flat pairs of means and log stds, from the gradients of the data's loss by both.

    With g = d loss / d mean, s = d loss / d log_std, var = std^2 and alpha = lr (hess_init + delta), the paper's lines are

        h_hat = s / var                                               (of weight samples: g_theta (theta - mean) / var)
        g_bar = beta1 g_bar + (1 - beta1) g
        h     = beta2 h + (1 - beta2) h_hat + (1 - beta2)^2 / 2 (h - h_hat)^2 / (h + delta)
        mean  = mean - alpha (g_bar / (1 - beta1^t) + delta (mean - prior_mean)) / (h + delta)

    Divided by h + delta, with u = (1 - beta2) (lambda s + var / prior_std^2 - 1), the third line is

        (h + delta)_new = (h + delta) (1 + u + u^2 / 2)

    so a log std decreases by half the logarithm of that factor, and no Hessian needs to be stored. The factor is at least
    1/2: variances stay positive. Weight decay beside the prior's is added to delta in the last line alone, as coupled decay
    of means.

    groups: `params` (mean, log_std, with `.grad` set), `weight_decay`, `std` (of the last sample: exp(log_std), 0 where
    masked), `keep` (1 or 0; None is 1 everywhere) and `prior_mean` (None is 0). Where `keep` is 0 nothing moves.
    """

    def __init__(self, groups: list[dict], lr: float, constants: Constants):
        fixed = ("std", "keep", "prior_mean")
        super().__init__([{k: v for k, v in group.items() if k not in fixed} for group in groups], {"lr": lr})
        # beside `param_groups`, for `load_state_dict` would put copies in place of tensors that are shared with the learner
        self._fixed = [[group[name] for name in fixed] for group in groups]
        self.constants = constants
        mean = groups[0]["params"][0]
        # on a GPU each kernel launch costs more than a block's work: there everything is one block
        self._block = _BLOCK if mean.device.type == "cpu" else max(group["params"][0].numel() for group in groups)
        self.capturable = False
        """True for steps that a CUDA graph captures: `lr` and the number of steps are tensors on the device."""
        self._scratch = torch.empty(3, self._block, dtype=mean.dtype, device=mean.device)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group, fixed in zip(self.param_groups, self._fixed, strict=True):
            mean, log_std = group["params"]
            state = self.state[mean]
            if not state:
                state.update(self.begin(mean))
            state["step"] += 1
            steps = state["step"] if self.capturable else state["step"].item()
            debias = 1 - self.constants.settings.beta1**steps
            tensors = (mean, log_std, mean.grad, log_std.grad, state["momentum"], *fixed)
            for start in range(0, mean.numel(), self._block):
                block = slice(start, start + self._block)
                self._update(group, debias, [t if t is None else t[block] for t in tensors])

    def begin(self, p: Tensor) -> dict[str, Tensor]:
        """Return the state of a parameter before its first step; only a mean has any."""
        means = (group["params"][0] for group in self.param_groups)
        if not any(p is mean for mean in means):
            return {}
        return {"step": torch.zeros((), device=p.device if self.capturable else None), "momentum": torch.zeros_like(p)}

    def _update(self, group: dict, debias: float | Tensor, parts: list[Any]) -> None:
        """Update one block, in place, in the memory of three scratch vectors."""
        mean, log_std, grad, slope, momentum, std, keep, prior_mean = parts
        c, s = self.constants, self.constants.settings
        var, u, scratch = self._scratch[:, : len(mean)]
        torch.mul(std, std, out=var)
        torch.mul(var, (1 - s.beta2) * c.ess * c.delta, out=u)
        u.add_(slope, alpha=(1 - s.beta2) * c.ess / c.scale).sub_(1 - s.beta2)
        growth = u.addcmul_(u, u, value=0.5)
        log_std.add_(torch.log1p(growth, out=scratch), alpha=-0.5)
        var.div_(growth.add_(1))  # the variance of the new Hessian
        momentum.lerp_(grad, 1 - s.beta1)
        direction = torch.mul(momentum, 1 / (debias * c.scale), out=scratch)
        direction.add_(mean, alpha=c.delta + group["weight_decay"] / c.scale)
        if prior_mean is not None:
            direction.sub_(prior_mean, alpha=c.delta)
        if keep is not None:
            log_std.mul_(keep)  # a pruned weight's, at std 0, would grow with every step
        rate = group["lr"] * (s.hess_init + c.delta) * c.ess
        if self.capturable:
            mean.addcmul_(direction.mul_(rate), var, value=-1)
        else:
            mean.addcmul_(direction, var, value=-rate)


def check(settings: TrainSettings) -> None:
    """Raise TombolaError for settings that the method cannot have."""
    for wrong, sentence in (
        (
            settings.estimator not in ("weight_sample", "antithetic"),
            f"train.estimator is {settings.estimator!r}, but method ivon takes its Hessian from weight samples; use "
            "weight_sample or antithetic",
        ),
        (settings.heat == 0, "train.heat is 0, but with method ivon the std is in proportion to its root; set it above 0"),
        (
            settings.kl_warmup_epochs > 0,
            f"train.kl_warmup_epochs is {settings.kl_warmup_epochs:g}, but with method ivon the KL term's weight sets every "
            "std at once and cannot rise from 0; set it to 0",
        ),
        (
            settings.clip_norm is not None,
            f"train.clip_norm is {settings.clip_norm}, but method ivon would take its Hessian from clipped gradients; "
            "leave it out, and lower train.ivon_lr where steps are too large",
        ),
        (
            settings.lr >= _LARGEST_ADAM_LR and settings.optimiser != "sgd",
            f"train.lr is {settings.lr:g}: method ivon leaves it to {settings.optimiser}, for what has no distribution; set "
            "train.ivon_lr",
        ),
    ):
        if wrong:
            raise TombolaError(sentence)
