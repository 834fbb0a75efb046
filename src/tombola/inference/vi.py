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

from .estimators import ESTIMATORS
from .estimators.noise import NoisePool
from .estimators.sample import WeightSample
from .graphs import term_of
from .objectives import OBJECTIVES
from .survivors import DENSEST, SurvivorSample


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
        stream: streams.Name,
    ):
        if state.posterior.std is None:
            raise TombolaError(
                f"method {settings.method} needs a Gaussian state, this one is a point: transplant it into a Bayesian one"
            )
        q = Gaussian.of(state.posterior)
        self.settings, self.likelihood, self._examples = settings, likelihood, examples
        self.layout, self.mask = q.layout, q.mask
        self.mean, self.log_std, self._prior_mean = q.mean.clone(), q.log_std.clone(), q.prior_mean
        noise = NoisePool(q.layout.random_numel, ("noise", *stream), settings.noise_refresh, like=self.mean)
        self._estimator = plugins.resolve(settings.estimator, ESTIMATORS, "estimator")
        self._objective = plugins.resolve(settings.objective, OBJECTIVES, "objective")
        self.sample = self._estimator(q.layout, self.mean, self.log_std, q.mask, noise, settings.samples > 1, q.prior_mean)
        self._survivors: SurvivorSample | None = None
        if works_on_survivors(self):
            self._survivors = SurvivorSample(self.sample, q.layout, q.mask, settings.samples > 1, q.prior_mean)
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
        few = self._survivors
        sample, runs = (few.inner, few.runs) if few else (self.sample, self.layout.decay_groups())
        groups = [
            {"params": [slice_with_grad(sample.mean, sample.mean_grad, where)], "factor": 1.0, "decayed": decayed}
            for where, decayed in runs
        ]
        log_std = slice_with_grad(sample.log_std, sample.log_std_grad, slice(0, sample.n))
        return [*groups, {"params": [log_std], "factor": self.settings.log_std_lr_factor, "decayed": False}]

    def optimiser(self, settings: TrainSettings) -> torch.optim.Optimizer | None:
        """Return an optimiser of the method's own; None where the settings' one steps all of `groups`."""
        return None

    def gradients(self, batch: Batch, step: int, kl_factor: float = 1.0) -> Tensor:
        """Sets the gradients for `batch`; returns its mean negative log likelihood (nats per example), averaged over
        the samples, or that of their average. step: names the noise. kl_factor: scales the KL term (warm-up)."""
        return self._objective(
            self._data_term,
            self._survivors or self.sample,
            batch,
            step,
            samples=self.settings.samples,
            scale=self.loss_scale,
            kl_weight=kl_factor * self.kl_weight,
            prior_std=self.settings.prior_std,
        )

    def show_mean(self) -> None:
        """The module's weights become the posterior's mean, until the next `gradients`."""
        if self._survivors:
            self._survivors.publish()
        self.sample.theta.copy_(self.mean)
        self.binding.wrote()

    def state(self) -> State:
        """A copy of the state as it now is. Call it while the binding is entered."""
        if self._survivors:
            self._survivors.publish()
        posterior = Gaussian(self.layout, self.mean, self.log_std, self.mask, self._prior_mean).masked(self.mask)
        return State(posterior, buffers_of(self.binding.module), copies(self.likelihood))

    def restore(self, state: State) -> None:
        """Goes on from `state`, in place."""
        q = Gaussian.of(state.posterior)
        self.mean.copy_(q.mean)
        self.log_std.copy_(q.log_std)
        if self._survivors:
            self._survivors.reload()
        load_buffers(self.binding.module, state.buffers)
        self.likelihood.load_state_dict(state.likelihood)


def works_on_survivors(learner: VI) -> bool:
    """Return whether what is done with the weights themselves is done for the survivors alone.

    Not on a GPU, where gathering costs more than it saves; not for an estimator that has gradients of its own; nor where a
    method, an estimator or an objective is a user's, which may read or change gradients of all parameters. Trainings with
    `clip_norm` keep the draws of all parameters that they have always had.
    """
    own = type(learner.sample)
    return (
        type(learner) is VI
        and learner._estimator in ESTIMATORS.values()
        and learner._objective in OBJECTIVES.values()
        and all(getattr(own, name) is getattr(WeightSample, name) for name in ("draw", "accumulate", "finish"))
        and learner.mean.device.type == "cpu"
        and learner.settings.clip_norm is None
        and 0 < learner.mask.double().mean().item() <= DENSEST
    )


def slice_with_grad(values: Tensor, grads: Tensor, where: slice) -> Tensor:
    """A view of `values`, whose gradient is one of `grads`."""
    part = values[where]
    part.grad = grads[where]
    return part


def copies(likelihood: nn.Module) -> dict[str, Tensor]:
    """Copies of what the likelihood learns, by name."""
    return {name: value.detach().clone() for name, value in likelihood.state_dict().items()}
