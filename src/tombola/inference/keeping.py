"""Trainings that keep some of the points on their way: SWAG, and the base of samplers.

Legend: P parameters of the layout, K kept samples.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.posterior.batch import Batch
from tombola.posterior.binding import buffers_of, load_buffers
from tombola.posterior.families import family_of
from tombola.posterior.point import Point
from tombola.posterior.samples import Samples, Swag
from tombola.posterior.state import State
from tombola.settings import PosteriorSettings, TrainSettings
from tombola.streams import Name

from .learner import learned_of
from .penalised import Penalised, check_zero_mean, refuse


class Keeping(Penalised):
    """Descends from its start's position, and keeps `train.keep` points of its way, evenly spread after each burn-in.

    A point is kept when the next gradients are taken, or at the end; one that is due is in no state before that, but a
    training that is resumed there keeps it all the same. A training begins without the kept points of its start.
    """

    learns: ClassVar[str] = Samples.family

    def __init__(
        self, module: nn.Module, state: State, likelihood: nn.Module, settings: TrainSettings, examples: int, stream: Name
    ):
        self.check(settings)
        self._family = family_of(self.learns)
        start = self._family.of(state.posterior)
        assert isinstance(start, Samples)
        point = replace(state, posterior=Point(start.layout, start.position, start.mask))
        super().__init__(module, point, likelihood, settings, examples, stream)
        self._kept, self._count = self.mean.new_zeros(settings.keep, len(self.mean)), 0
        self._due: set[int] = set()

    @classmethod
    def check(cls, settings: TrainSettings) -> None:
        """Raise TombolaError for settings that the method cannot have."""
        refuse(settings, "cuda_graphs")

    @classmethod
    def start(cls, posterior: PosteriorSettings, settings: TrainSettings, examples: int) -> PosteriorSettings:
        cls.check(settings)
        check_zero_mean(posterior, settings)
        steps = settings.epochs * -(-examples // settings.batch_size)
        if (found := sum(is_sampling(settings, step, steps) for step in range(steps))) < settings.keep:
            raise TombolaError(
                f"train.keep is {settings.keep}, but only {found} of {steps} steps follow the burn-in; raise train.epochs, "
                "or lower train.keep or train.burn_in"
            )
        return posterior

    def begin(self, steps: int) -> None:
        self._steps, self._due = steps, set(kept_steps(self.settings, steps))

    def gradients(self, batch: Batch, step: int, kl_factor: float | Tensor = 1.0) -> Tensor:
        self._keep_after(step - 1)
        return super().gradients(batch, step, kl_factor)

    def end(self, batches: Iterable[Batch]) -> None:
        self._keep_after(self._steps - 1)

    def _keep_after(self, step: int) -> None:
        """Keep the present parameters if the update of that step is one to keep."""
        if step in self._due and self._count < len(self._kept):
            torch.mul(self.mean, self.mask, out=self._kept[self._count])  # an optimiser's momentum moves pruned weights
            self._count += 1

    def state(self) -> State:
        kept = self._kept[: self._count]
        posterior = self._family.of_tensors(self.layout, self.mask, {"position": self.mean, "kept": kept})
        return State(posterior.masked(self.mask), buffers_of(self.binding.module), learned_of(self.likelihood))

    def restore(self, state: State) -> None:
        q = state.posterior
        assert isinstance(q, Samples)
        self.mean.copy_(q.position)
        self._count = len(q.kept)
        self._kept[: self._count].copy_(q.kept)
        load_buffers(self.binding.module, state.buffers)
        self.likelihood.load_state_dict(state.likelihood)


class SWAG(Keeping):
    """Fits a Gaussian, low rank plus diagonal, to points on the way of an optimiser (Maddox et al. 2019, algorithm 1)."""

    learns: ClassVar[str] = Swag.family

    @classmethod
    def check(cls, settings: TrainSettings) -> None:
        super().check(settings)
        if settings.keep < 2:
            raise TombolaError(f"train.keep is {settings.keep}, but a variance needs two points; raise it to 2 or more")


def is_sampling(settings: TrainSettings, step: int, steps: int) -> bool:
    """Return whether a step (from 0) is after the burn-in of its cycle."""
    length = -(-steps // settings.cycles)
    return step % length >= settings.burn_in * length


def kept_steps(settings: TrainSettings, steps: int) -> list[int]:
    """Return the steps after which a point is kept: evenly spread over all steps after a burn-in, the last one included."""
    sampling = [step for step in range(steps) if is_sampling(settings, step, steps)]
    count = min(settings.keep, len(sampling))
    return [sampling[(i + 1) * len(sampling) // count - 1] for i in range(count)]
