"""Deterministic training, in the same loop: a point in place of a distribution."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from tombola.posterior.batch import Batch
from tombola.posterior.binding import Binding, buffers_of, load_buffers
from tombola.posterior.point import Point
from tombola.posterior.state import State
from tombola.settings import TrainSettings
from tombola.streams import Name

from .graphs import term_of
from .learner import Learner, gradient_at, learned_of, slice_with_grad


class Map(Learner):
    """Minimises the mean negative log likelihood (or N times that). Its prior is the optimiser's weight decay."""

    learns: ClassVar[str] = Point.family

    def __init__(
        self, module: nn.Module, state: State, likelihood: nn.Module, settings: TrainSettings, examples: int, stream: Name
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

    def groups(self) -> list[dict]:
        return [
            {"params": [slice_with_grad(self.mean, self._grad, where)], "factor": 1.0, "decayed": decayed}
            for where, decayed in self.layout.decay_groups()
        ]

    def gradients(self, batch: Batch, step: int, kl_factor: float | Tensor = 1.0) -> Tensor:
        if self._keep is not None:
            self.mean.mul_(self._keep)  # an optimiser's momentum moves pruned weights
        self.binding.wrote()
        loss = self._data_term.backward(batch, self._grad, self._scale)
        if self._keep is not None:
            self._grad.mul_(self._keep)
        return loss

    def change_mask(self, mask: Tensor) -> None:
        """Go on under another mask; a weight that is kept by both keeps its value, the others are 0."""
        self.mean.mul_((self.mask & mask).to(self.mean.dtype))
        self.mask, self._keep = mask, mask.to(self.mean.dtype)

    def dense_gradient(self, batch: Batch) -> Tensor:
        """Return the gradient of the mean negative log likelihood, [P], as if no weight were pruned."""
        return gradient_at(self._data_term, self.show_mean, batch)

    def show_mean(self) -> None:
        self.binding.wrote()  # the weights are the mean already, except copies in another dtype

    def state(self) -> State:
        posterior = Point(self.layout, self.mean, self.mask).masked(self.mask)
        return State(posterior, buffers_of(self.binding.module), learned_of(self.likelihood))

    def restore(self, state: State) -> None:
        self.mean.copy_(state.posterior.mean)
        load_buffers(self.binding.module, state.buffers)
        self.likelihood.load_state_dict(state.likelihood)
