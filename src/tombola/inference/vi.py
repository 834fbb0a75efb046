"""Variational inference with the mean-field Gaussian (Blundell et al. 2015), by any estimator and objective."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from tombola import plugins
from tombola.errors import TombolaError
from tombola.posterior.batch import Batch
from tombola.posterior.binding import Binding, buffers_of, load_buffers
from tombola.posterior.gaussian import Gaussian
from tombola.posterior.state import State
from tombola.settings import TrainSettings
from tombola.streams import Name

from .estimators import ESTIMATORS
from .estimators.noise import NoisePool
from .estimators.sample import Antithetic, WeightSample
from .graphs import term_of
from .learner import Learner, gradient_at, learned_of, slice_with_grad
from .objectives import OBJECTIVES
from .survivors import DENSEST, SurvivorSample


class VI(Learner):
    """Minimises E_q[-log p(batch)] + heat * KL(q || prior) / N (or N times that), or another of `OBJECTIVES`.

    The first term is a mean over the batch. At heat 1 the sum is the negative ELBO over N, with the KL term shared equally
    by minibatches (Blundell et al. 2015, equation 8); `heat` is the posterior's temperature.
    """

    learns: ClassVar[str] = Gaussian.family

    def __init__(
        self, module: nn.Module, state: State, likelihood: nn.Module, settings: TrainSettings, examples: int, stream: Name
    ):
        if state.posterior.std is None:
            raise TombolaError(
                f"method {settings.method} needs a Gaussian state, this one is a point: transplant it into a Bayesian one"
            )
        q = Gaussian.of(state.posterior)
        self.settings, self.likelihood, self._examples, self._stream = settings, likelihood, examples, stream
        self.layout, self.mask = q.layout, q.mask
        self.mean, self.log_std, self._prior_mean = q.mean.clone(), q.log_std.clone(), q.prior_mean
        noise = NoisePool(q.layout.random_numel, ("noise", *stream), settings.noise_refresh, like=self.mean)
        estimator = plugins.resolve(settings.estimator, ESTIMATORS, "estimator")
        self._objective = plugins.resolve(settings.objective, OBJECTIVES, "objective")
        several = settings.samples > 1
        self.sample = estimator(q.layout, self.mean, self.log_std, q.mask, noise, several, q.prior_mean)
        self._survivors: SurvivorSample | None = None
        if works_on_survivors(self):
            self._survivors = SurvivorSample(self.sample, q.layout, q.mask, several, q.prior_mean)
        self.binding = Binding(module, q.layout, self.sample.theta, state.buffers)
        self.sample.converted = self.binding.converted
        self._data_term = term_of(self.binding, likelihood, settings, self.sample)
        self.loss_scale = float(examples) if settings.loss_scale == "sum" else 1.0
        self.kl_weight = settings.heat * self.loss_scale / examples

    def groups(self) -> list[dict]:
        few = self._survivors
        sample, layout = (few.inner, few.layout) if few else (self.sample, self.layout)
        groups = [
            {"params": [slice_with_grad(sample.mean, sample.mean_grad, where)], "factor": 1.0, "decayed": decayed}
            for where, decayed in layout.decay_groups()
        ]
        log_std = slice_with_grad(sample.log_std, sample.log_std_grad, slice(0, sample.n))
        return [*groups, {"params": [log_std], "factor": self.settings.log_std_lr_factor, "decayed": False}]

    def gradients(self, batch: Batch, step: int, kl_factor: float | Tensor = 1.0) -> Tensor:
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

    def hold_generators(self) -> list[torch.Generator]:
        return self._noise.hold(len(self.sample.ticks(0, self.settings.samples)))

    def seed(self, step: int) -> None:
        self._noise.seed(self.sample.ticks(step, self.settings.samples))

    @property
    def _noise(self) -> NoisePool:
        return (self._survivors.inner if self._survivors else self.sample).noise

    def change_mask(self, mask: Tensor) -> None:
        """Go on under another mask; a weight that is kept by both keeps mean and log_std, the others have mean 0.

        Only with `train.sparse`, without which the work may be of the survivors alone.
        """
        self.mean.mul_((self.mask & mask).to(self.mean.dtype))
        self.mask = mask
        self.sample.change_mask(mask)

    def dense_gradient(self, batch: Batch) -> Tensor:
        """Return the gradient of the mean negative log likelihood at the mean, [P], as if no weight were pruned."""
        return gradient_at(self._data_term, self.show_mean, batch)

    def show_mean(self) -> None:
        if self._survivors:
            self._survivors.publish()
        self.sample.theta.copy_(self.mean)
        self.binding.wrote()

    def state(self) -> State:
        if self._survivors:
            self._survivors.publish()
        posterior = Gaussian(self.layout, self.mean, self.log_std, self.mask, self._prior_mean).masked(self.mask)
        return State(posterior, buffers_of(self.binding.module), learned_of(self.likelihood))

    def restore(self, state: State) -> None:
        q = Gaussian.of(state.posterior)
        self.mean.copy_(q.mean)
        self.log_std.copy_(q.log_std)
        if self._survivors:
            self._survivors.reload()
        load_buffers(self.binding.module, state.buffers)
        self.likelihood.load_state_dict(state.likelihood)


def works_on_survivors(learner: VI) -> bool:
    """Return whether samples, gradients and optimiser steps are of the survivors alone.

    Not on a GPU, where gathering costs more than it saves; not for estimators with noise in outputs; nor where a method (a
    subclass of this one, too), an estimator or an objective is a user's, which may read or change gradients of all
    parameters; nor where the mask
    changes. Trainings with `clip_norm` draw for all parameters so that their results stay what they were.
    """
    return (
        type(learner) is VI
        and type(learner.sample) in (WeightSample, Antithetic)
        and learner._objective in OBJECTIVES.values()
        and learner.mean.device.type == "cpu"
        and learner.settings.clip_norm is None
        and not learner.settings.sparse
        and 0 < learner.mask.double().mean().item() <= DENSEST
    )
