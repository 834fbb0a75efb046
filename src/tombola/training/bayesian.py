"""Bayesian: a module with a posterior, for a training loop of your own.

Legend: P parameters of the layout.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tombola import plugins
from tombola.errors import TombolaError
from tombola.inference import OBJECTIVES
from tombola.inference.estimators import ESTIMATORS
from tombola.inference.estimators.noise import NoisePool
from tombola.inference.estimators.sample import WeightSample
from tombola.posterior.batch import Batch, logits_of, mapped
from tombola.posterior.batch_norm import Choice
from tombola.posterior.cancelled import cancelled_biases
from tombola.posterior.gaussian import Gaussian
from tombola.posterior.layout import ORDER, Segment
from tombola.posterior.likelihood import (
    Categorical,
    GaussianNoise,
    LogLikelihood,
    as_likelihood,
    check_foreign,
    load_learned,
)
from tombola.posterior.modes import outside_inference_mode, recordable
from tombola.posterior.predictive import Prediction, classes_of
from tombola.posterior.roles import later_names
from tombola.posterior.state import State, initial_state, layout_of
from tombola.pruning.iterate import prune_ticket
from tombola.pruning.scores import check_random, check_ranked
from tombola.pruning.ticket import Ticket
from tombola.settings import PosteriorSettings, PruneSettings, check_samples
from tombola.streams import generator, global_stream

from .elbo import NegativeElbo
from .recorded import run_recorded


class Bayesian(nn.Module):
    """An ordinary module plus a Gaussian posterior over its named parameters, for a training loop of your own.

    Its parameters are the flat `mean` and `log_std` [P] (and what the likelihood learns): any optimiser takes them. The
    module itself is not changed; it is run on weight samples. `negative_elbo` is the loss of a batch; trainers that call
    their model and make the loss themselves add `kl() / N`, see `forward`.
    """

    accepts_loss_kwargs = False
    """Hugging Face's Trainer asks for it: a loss is an average over a batch, which it divides where it accumulates."""

    @outside_inference_mode
    def __init__(
        self,
        module: nn.Module,
        *,
        posterior: PosteriorSettings | None = None,
        prune: PruneSettings | None = None,
        likelihood: nn.Module | LogLikelihood | None = None,
        mask: Mapping[str, Tensor] | None = None,
        prior_std: float = 1.0,
        estimator: str = "weight_sample",
        objective: str = "expected_log",
        noise_refresh: float = 1.0,
        seed: int = 0,
        training_inputs: Any = None,
    ):
        """Make `module` Bayesian; it starts from its present values.

        mask: weights that are pruned from the start, by parameter name; false or 0 is pruned.
        likelihood: (output, batch) -> log likelihood of each example [B], a function or a module (whose parameters are
            learned); by default `Categorical`.
        estimator, objective, noise_refresh: as in `TrainSettings`.
        seed: names the streams of initialisation, of noise and of the module's own randomness (dropout).
        training_inputs: of a module with batch norm, inputs of about 256 training examples: biases that a batch norm takes
            out are found by them and deterministic, and statistics of weight samples are measured on them.
        """
        super().__init__()
        if prior_std <= 0 or not 0 < noise_refresh <= 1:
            raise TombolaError(
                f"prior_std is {prior_std}, noise_refresh {noise_refresh}; the first must be above 0, the second in (0, 1]"
            )
        self._module = [module]  # in a list: its own parameters are not ours
        posterior = posterior or PosteriorSettings()
        self._reference = [] if training_inputs is None else [training_inputs]
        found = cancelled_biases(module, *self._reference) if self._reference else ()
        self.layout = layout_of(module, posterior, prune or PruneSettings(), found)
        check_random(self.layout)
        self._start = initial_state(module, self.layout, posterior, seed)
        kept = self.layout.mask_of(mask or {}, later_names(module))
        q = self._start.posterior.masked(kept.to(self._start.posterior.mean.device))
        self.likelihood = as_likelihood(likelihood if likelihood is not None else Categorical())
        check_foreign(self.likelihood, module)
        self._start = replace(self._start, likelihood=self._learned())
        frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
        self._frozen = [s.slice for s in self.layout.segments if s.name in frozen]
        self.mean = nn.Parameter(q.mean.clone())
        self.log_std = nn.Parameter(Gaussian.of(q).log_std.clone())
        self.register_buffer("mask", q.mask.clone())
        self.mask: Tensor
        self.prior_std, self._noise_refresh, self._seed = prior_std, noise_refresh, seed
        self.estimator, self._make_sample = estimator, plugins.resolve(estimator, ESTIMATORS, "estimator")
        self._gradients = plugins.resolve(objective, OBJECTIVES, "objective")
        self._buffers_now = self._start.buffers
        self._sample: WeightSample | None = None
        self._made_for: tuple[int, ...] = ()
        self._pool: tuple[torch.device, torch.dtype, NoisePool] | None = None
        self.step = 0
        """Number of calls of `negative_elbo` and `forward` in training mode: names the noise of the next."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the module's output for its arguments: on one weight sample in training mode, else on the mean.

        Ordinary autograd leads to `mean` and `log_std`, so that with a loss averaged over a batch, and N training examples,
        `loss + bayesian.kl() / N` has the gradients of `negative_elbo` by the estimator `weight_sample` and the objective
        `expected_log`, whichever were chosen. In training mode each call draws its own sample and updates batch-norm
        statistics; the mean is normalised by those running statistics.
        """
        q, step = self.posterior, self.step
        theta = q.mean
        if self.training:
            noise = torch.zeros_like(theta)
            noise[: self.layout.random_numel] = self._noise().window(step)
            theta = torch.addcmul(theta, q.std, noise)
            self.step += 1
        module, buffers = self._module[0], self._buffers_now
        with global_stream("dropout", self._seed, step, device=theta.device):
            output, buffers = run_recorded(module, self.layout, theta, buffers, args, kwargs, training=self.training)
        if self.training:
            self._buffers_now = buffers
        return output

    @outside_inference_mode
    def negative_elbo(self, batch: Batch, *, examples: int, heat: float = 1.0, samples: int = 1) -> Tensor:
        """Return E_q[-log p(batch)], mean over the batch, + heat * KL(q || prior) / examples: nats, a scalar.

        Its `backward` is ordinary: gradients land in `mean.grad` and `log_std.grad`; scale, accumulate, clip them as any.
        batch: a pair (inputs, targets) or a mapping with `labels`, see `tombola.posterior.batch`.
        examples: N of the whole training set. samples: weight samples averaged, in one sample's memory.
        """
        check_samples(self.estimator, samples)
        if examples < 1:
            raise TombolaError(f"examples is {examples}; it must be at least 1")
        learned = [p for p in self.likelihood.parameters() if p.requires_grad]
        batch = mapped(batch, recordable)
        return NegativeElbo.apply(self, batch, heat / examples, samples, self.mean, self.log_std, *learned)

    def kl(self) -> Tensor:
        """Return KL(q || prior) in nats, over the surviving random parameters."""
        return self.posterior.kl(self.prior_std)

    @property
    def posterior(self) -> Gaussian:
        # masked: an optimiser's momentum may have moved the mean of pruned weights since the last step
        self._hold_frozen()
        return Gaussian(self.layout, self.mean, self.log_std, self.mask, self._prior_mean()).masked(self.mask)

    @outside_inference_mode
    def state(self) -> State:
        """Return a copy of all that was trained."""
        self._hold_frozen()
        mean, log_std, mask = self.mean.detach(), self.log_std.detach(), self.mask.clone()
        q = Gaussian(self.layout, mean, log_std, mask, self._prior_mean()).masked(mask)
        return State(q, {k: v.clone() for k, v in self._buffers_now.items()}, self._learned())

    def get_extra_state(self) -> dict[str, Any]:
        """Return the rest of a state_dict, with which a loaded model continues as the saved one would have.

        Step, buffers of the module (batch-norm statistics), and the start that survivors are rewound to.
        """
        return {"step": self.step, "order": ORDER, "buffers": dict(self._buffers_now), "start": self._start.tensors()}

    def set_extra_state(self, saved: dict[str, Any]) -> None:
        """Load what `get_extra_state` returned. Raises TombolaError for parameters saved in another flat order."""
        if saved.get("order") != ORDER and any(s.channels_last for s in self.layout.segments):
            raise TombolaError(
                "this state_dict was saved by an earlier tombola, which had weights of convolutions in another order; load "
                "it there, save `ticket()` to a file, and `rewind` to that here"
            )
        q = self._start.posterior
        start = {name: value.to(q.mean.device) for name, value in saved["start"].items()}
        self._start = State.of_tensors(self.layout, q.mask, start)
        self.step, self._buffers_now, self._sample = saved["step"], dict(saved["buffers"]), None

    def _prior_mean(self) -> Tensor | None:
        prior_mean = Gaussian.of(self._start.posterior).prior_mean
        return None if prior_mean is None else prior_mean.to(self.mean.device)

    def _learned(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.likelihood.state_dict().items()}

    @outside_inference_mode
    def ticket(self) -> Ticket:
        """Return the ticket of the present mask, start and trained state, on the CPU.

        With `training_inputs` it keeps batch-norm statistics of its weight samples.
        """
        ticket = self._ticket()
        return ticket.with_statistics(self._module[0], *self._reference) if self._reference else ticket

    def _ticket(self) -> Ticket:
        mask = self.mask.cpu()
        return Ticket(mask, self._start.to("cpu").masked(mask), self.state().to("cpu"))

    @outside_inference_mode
    def predict(
        self,
        inputs: Any,
        *,
        samples: int = 16,
        seed: int = 0,
        batch: int = 1024,
        batch_norm: Choice = "samples",
        select: Callable[[Any], Tensor] = logits_of,
    ) -> Prediction:
        """Return class probabilities with their uncertainty from the present posterior, as `Ticket.predict`.

        Batch-norm statistics of the weight samples are measured on `training_inputs`.
        """
        if isinstance(self.likelihood, GaussianNoise):
            raise TombolaError("a regression has no class probabilities; use ticket().outputs")
        module, ticket = self._module[0], self._ticket()
        if batch_norm == "samples" and self._reference:
            ticket = ticket.with_statistics(module, *self._reference, samples=samples, seed=seed)
        how: dict[str, Any] = {"samples": samples, "seed": seed, "batch": batch, "batch_norm": batch_norm, "select": select}
        return classes_of(ticket.outputs(module, inputs, **how))

    @outside_inference_mode
    def prune(
        self,
        score: str = "snr",
        fraction: float = 0.2,
        scope: Literal["global", "layerwise"] = "global",
        seed: int = 0,
        sigma: Literal["trained", "start", "shuffled"] = "trained",
    ) -> Ticket:
        """Prune by the present posterior and rewind the survivors to the start; return the new, untrained ticket.

        score, fraction, scope, sigma: as in `PruneSettings`. The parameters change in place: continue with a new optimiser.
        """
        check_ranked(self.layout, score)
        how = PruneSettings(score=score, sigma=sigma, fraction=fraction, scope=scope)
        ticket = prune_ticket(self._ticket(), self._start.to("cpu"), how, generator("score", seed, self.step))
        self._restart(ticket)
        return ticket

    @outside_inference_mode
    def rewind(self, ticket: Ticket) -> None:
        """Restart at the ticket's mask and rewind state, in place; later prunings rewind to that state, too.

        Raises TombolaError for a ticket of another model, or of another choice of random parameters.
        """
        ticket.layout.check(self._module[0])
        if ticket.rewind.posterior.std is None:
            raise TombolaError("the ticket is deterministic; transplant it into a Bayesian state first")
        own = {s.name: s for s in self.layout.segments}
        for there in ticket.layout.segments:
            here = own[there.name]
            if (there.random, there.start) != (here.random, here.start):
                raise TombolaError(
                    f"parameter {there.name!r} is {_place(there)} of the ticket's order, {_place(here)} of the model's; "
                    "make both with the same posterior.random and posterior.decayed, and this one with training_inputs"
                )
        likelihood = ticket.rewind.likelihood or self._start.likelihood
        self._start = replace(ticket.rewind.as_family(Gaussian.family), likelihood=likelihood)
        self._restart(ticket)

    def _restart(self, ticket: Ticket) -> None:
        q = Gaussian.of(ticket.rewind.posterior)
        with torch.no_grad():
            self.mean.copy_(q.mean)
            self.log_std.copy_(q.log_std)
            self.mask.copy_(ticket.mask)
        load_learned(self.likelihood, ticket.rewind.likelihood or self._start.likelihood)
        self._buffers_now, self._sample = ticket.rewind.buffers, None
        self.mean.grad = self.log_std.grad = None

    def _hold_frozen(self) -> None:
        """Restore parameters that the module has frozen: an optimiser's decay of the flat mean changes them."""
        with torch.no_grad():
            for where in self._frozen:
                kept = self._start.posterior.mean[where].to(self.mean) * self.mask[where]
                if not torch.equal(self.mean[where], kept):
                    self.mean[where].copy_(kept)

    def _noise(self) -> NoisePool:
        """Return the noise of weight samples, a function of the step alone."""
        like = self.mean.data
        if self._pool is None or self._pool[:2] != (like.device, like.dtype):
            pool = NoisePool(self.layout.random_numel, ("noise", self._seed), self._noise_refresh, like=like)
            self._pool = like.device, like.dtype, pool
        return self._pool[2]

    def _weight_sample(self) -> WeightSample:
        """Return the estimator; it is made anew when the parameters have moved to other memory or the mask was set."""
        self._hold_frozen()
        mean, log_std = self.mean.data, self.log_std.data
        made_for = (mean.data_ptr(), self.mask.data_ptr(), self.mask._version)
        if self._sample is None or self._made_for != made_for:
            self._made_for = made_for
            noise = self._noise()
            sample, prior_mean = self._make_sample, self._prior_mean()
            self._sample = sample(self.layout, mean, log_std, self.mask, noise, several=True, prior_mean=prior_mean)
        return self._sample


def _place(segment: Segment) -> str:
    return f"a {'random' if segment.random else 'deterministic'} parameter at {segment.start}"
