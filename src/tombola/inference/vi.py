"""Variational inference with the mean-field Gaussian (Blundell et al. 2015), by any estimator."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from tombola import plugins, streams
from tombola.errors import TombolaError
from tombola.posterior.batch import Batch
from tombola.posterior.binding import Binding, buffers_of, load_buffers
from tombola.posterior.gaussian import Gaussian
from tombola.posterior.state import State
from tombola.settings import PosteriorSettings, TrainSettings

from .estimators.noise import NoisePool
from .estimators.outputs import ESTIMATORS
from .fused import RULES, FusedUpdate
from .graphs import term_of
from .groups import with_decay
from .held import HeldSample, can_hold
from .objectives import OBJECTIVES
from .survivors import Survivors, SurvivorSample


class VI:
    """Minimises E_q[-log p(batch)] + heat * KL(q || prior) / N (or N times that), or another of `OBJECTIVES`."""

    learns: ClassVar[str] = Gaussian.family

    def __init__(
        self,
        module: nn.Module,
        state: State,
        likelihood: nn.Module,
        settings: TrainSettings,
        examples: int,
        words: tuple[streams.Word, ...],
    ):
        if state.posterior.std is None:
            raise TombolaError(
                f"method {settings.method} needs a Gaussian state, this one is a point: transplant it into a Bayesian one"
            )
        q = Gaussian.of(state.posterior)
        self.settings, self.likelihood, self._examples = settings, likelihood, examples
        self.layout, self.mask = q.layout, q.mask
        self.mean, self.log_std, self._prior_mean = q.mean.clone(), q.log_std.clone(), q.prior_mean
        noise = NoisePool(q.layout.random_numel, ("noise", *words), settings.noise_refresh, like=self.mean)
        self._estimator = plugins.resolve(settings.estimator, ESTIMATORS, "estimator")
        self._objective = plugins.resolve(settings.objective, OBJECTIVES, "objective")
        self.sample = self._estimator(q.layout, self.mean, self.log_std, q.mask, noise, settings.samples > 1, q.prior_mean)
        self._working = self.sample, q.layout.decay_groups()
        self._held: HeldSample | SurvivorSample | None = None
        self.binding = Binding(module, q.layout, self.sample.theta, state.buffers)
        self.sample.converted = self.binding.converted
        self._data_term = term_of(self.binding, likelihood, settings, self.sample)
        self.loss_scale = float(examples) if settings.loss_scale == "sum" else 1.0
        self.kl_weight = settings.heat * self.loss_scale / examples

    @classmethod
    def start(cls, posterior: PosteriorSettings, settings: TrainSettings, examples: int) -> PosteriorSettings:
        """How a posterior starts that is to be trained on `examples`. Raises TombolaError for settings that the method
        cannot have."""
        return posterior

    def groups(self) -> list[dict]:
        """Optimiser groups: tensors with `.grad` set, their learning-rate factor and whether they are decayed."""
        groups, (sample, runs) = [], self._working
        for where, decayed in runs:
            part = slice_with_grad(sample.mean, sample.mean_grad, where)
            groups.append({"params": [part], "factor": 1.0, "decayed": decayed})
        log_std = slice_with_grad(sample.log_std, sample.log_std_grad, slice(0, sample.n))
        groups.append({"params": [log_std], "factor": self.settings.log_std_lr_factor, "decayed": False})
        return groups

    def optimiser(self, settings: TrainSettings) -> torch.optim.Optimizer | None:
        """One that goes over memory once for gradients, update and the next draw, of the surviving weights alone where
        they are few. `gradients` then only notes what is due, and mean and log_std are up to date in `state()`.

        None where `in_one_sweep` says so.
        """
        if self._held:  # of an optimiser before this one
            self._held.publish()
        self._held, self._working = None, (self.sample, self.layout.decay_groups())
        if not in_one_sweep(self, settings):
            return None
        sample, runs = self._working
        survivors = Survivors.of(self.layout, self.mask)
        if survivors:
            sample, runs = survivors.sample(sample, self.settings.samples > 1, self._prior_mean), survivors.runs
        held = HeldSample(sample, [where.stop for where, _ in runs])
        self._held = SurvivorSample(held, sample, self.sample, survivors, self.mask) if survivors else held
        self._working = sample, runs
        return FusedUpdate(held, with_decay(self.groups(), self.likelihood, settings), settings)

    def gradients(self, batch: Batch, step: int, kl_factor: float = 1.0) -> Tensor:
        """Sets the gradients for `batch`; returns its mean negative log likelihood (nats per example), averaged over
        the samples, or that of their average. step: names the noise. kl_factor: scales the KL term (warm-up)."""
        return self._objective(
            self._data_term,
            self._held or self.sample,
            batch,
            step,
            samples=self.settings.samples,
            scale=self.loss_scale,
            kl_weight=kl_factor * self.kl_weight,
            prior_std=self.settings.prior_std,
        )

    def show_mean(self) -> None:
        """The module's weights become the posterior's mean, until the next `gradients`."""
        if self._held:
            self._held.publish()
            self._held.forget()
        self.sample.theta.copy_(self.mean)
        self.binding.wrote()

    def state(self) -> State:
        """A copy of the state as it now is. Call it while the binding is entered."""
        if self._held:
            self._held.publish()
        posterior = Gaussian(self.layout, self.mean, self.log_std, self.mask, self._prior_mean).masked(self.mask)
        return State(posterior, buffers_of(self.binding.module), copies(self.likelihood))

    def restore(self, state: State) -> None:
        """Goes on from `state`, in place."""
        q = Gaussian.of(state.posterior)
        self.mean.copy_(q.mean)
        self.log_std.copy_(q.log_std)
        if self._held:
            self._held.reload()
        load_buffers(self.binding.module, state.buffers)
        self.likelihood.load_state_dict(state.likelihood)


def in_one_sweep(learner: object, settings: TrainSettings) -> bool:
    """Whether a network that is trained by such a learner, alone, is trained block by block.

    Not where the whole gradient is wanted first (its norm), where the estimator has gradients of its own, and on a GPU,
    where there is no cache to stay in. Nor where a method, an estimator or an objective is a user's: it may read or change
    what a sweep keeps elsewhere or never makes, such as whole gradients.
    """
    return (
        type(learner) is VI
        and learner._estimator in ESTIMATORS.values()
        and learner._objective in OBJECTIVES.values()
        and can_hold(learner.sample)
        and learner.mean.device.type == "cpu"
        and settings.clip_norm is None
        and settings.optimiser in RULES
    )


def slice_with_grad(values: Tensor, grads: Tensor, where: slice) -> Tensor:
    """A view of `values`, whose gradient is one of `grads`."""
    part = values[where]
    part.grad = grads[where]
    return part


def copies(likelihood: nn.Module) -> dict[str, Tensor]:
    """Copies of what the likelihood learns, by name."""
    return {name: value.detach().clone() for name, value in likelihood.state_dict().items()}
