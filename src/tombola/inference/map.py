"""Deterministic training: the same loop, with a point in place of a distribution."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from tombola import streams
from tombola.posterior.batch import Batch
from tombola.posterior.binding import Binding, buffers_of, load_buffers
from tombola.posterior.point import Point
from tombola.posterior.state import State
from tombola.settings import PosteriorSettings, TrainSettings

from .graphs import term_of
from .vi import copies, slice_with_grad


class Map:
    """Minimises the mean negative log likelihood (or N times that); weight decay is its prior."""

    learns: ClassVar[str] = Point.family

    def __init__(
        self,
        module: nn.Module,
        state: State,
        likelihood: nn.Module,
        settings: TrainSettings,
        examples: int,
        stream: streams.Name,
    ):
        q = Point.of(state.posterior)
        self.likelihood = likelihood
        self.layout, self.mask = q.layout, q.mask
        self._keep = None if bool(q.mask.all()) else q.mask.to(q.mean.dtype)
        self.mean = q.mean.clone()
        self._grad = torch.zeros_like(self.mean)
        self.binding = Binding(module, q.layout, self.mean, state.buffers)
        self._data_term = term_of(self.binding, likelihood, settings)
        self._scale = float(examples) if settings.loss_scale == "sum" else 1.0

    @classmethod
    def start(cls, posterior: PosteriorSettings, settings: TrainSettings, examples: int) -> PosteriorSettings:
        """As `VI.start`."""
        return posterior

    def optimiser(self, settings: TrainSettings) -> torch.optim.Optimizer | None:
        """As `VI.optimiser`."""
        return None

    def groups(self) -> list[dict]:
        """As `VI.groups`."""
        return [
            {"params": [slice_with_grad(self.mean, self._grad, where)], "factor": 1.0, "decayed": decayed}
            for where, decayed in self.layout.decay_groups()
        ]

    def gradients(self, batch: Batch, step: int, kl_factor: float = 1.0) -> Tensor:
        """As `VI.gradients`; there is no KL."""
        if self._keep is not None:
            self.mean.mul_(self._keep)
        self.binding.wrote()
        loss = self._data_term.backward(batch, self._grad, self._scale)
        if self._keep is not None:
            self._grad.mul_(self._keep)
        return loss

    def show_mean(self) -> None:
        """As `VI.show_mean`: the weights are the mean already, but for copies in another dtype."""
        self.binding.wrote()

    def state(self) -> State:
        """As `VI.state`."""
        posterior = Point(self.layout, self.mean, self.mask).masked(self.mask)
        return State(posterior, buffers_of(self.binding.module), copies(self.likelihood))

    def restore(self, state: State) -> None:
        """As `VI.restore`."""
        self.mean.copy_(state.posterior.mean)
        load_buffers(self.binding.module, state.buffers)
        self.likelihood.load_state_dict(state.likelihood)
