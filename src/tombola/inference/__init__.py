"""How a posterior is learned: one file a method, the same verbs over a state."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from ..posterior.batch import Batch
from ..posterior.binding import Binding
from ..posterior.layout import Layout
from ..posterior.state import State
from .map import Map
from .vi import VI


class Learner(Protocol):
    """A method at work on one module: the training loop needs no more."""

    binding: Binding
    layout: Layout
    mask: Tensor

    def groups(self) -> list[dict]: ...
    def gradients(self, batch: Batch, step: int, kl_factor: float = 1.0) -> Tensor: ...
    def show_mean(self) -> None: ...
    def state(self) -> State: ...
    def restore(self, state: State) -> None: ...


METHODS: dict[str, Callable[..., Learner]] = {"vi": VI, "map": Map}

__all__ = ["METHODS", "VI", "Batch", "Learner", "Map"]
