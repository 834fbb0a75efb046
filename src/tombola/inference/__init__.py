"""How a posterior is learned: one file a method, the same verbs over a state."""

from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from tombola import plugins, streams
from tombola.errors import TombolaError
from tombola.posterior.batch import Batch
from tombola.posterior.binding import Binding
from tombola.posterior.families import family_of
from tombola.posterior.layout import Layout
from tombola.posterior.point import Point
from tombola.posterior.state import State
from tombola.settings import PosteriorSettings, TrainSettings

from .ivon import Ivon
from .map import Map
from .objectives import OBJECTIVES
from .vi import VI


class Learner(Protocol):
    """A method at work on one module: the training loop needs no more."""

    learns: ClassVar[str]
    """The family of the posterior that it learns, by its name in `FAMILIES`. What it is given is made one, or refused."""
    binding: Binding
    layout: Layout
    mask: Tensor

    def __init__(
        self,
        module: nn.Module,
        state: State,
        likelihood: nn.Module,
        settings: TrainSettings,
        examples: int,
        stream: streams.Name,
    ): ...
    @classmethod
    def start(cls, posterior: PosteriorSettings, settings: TrainSettings, examples: int) -> PosteriorSettings: ...
    def groups(self) -> list[dict]: ...
    def optimiser(self, settings: TrainSettings) -> torch.optim.Optimizer | None: ...
    def gradients(self, batch: Batch, step: int, kl_factor: float = 1.0) -> Tensor: ...
    def show_mean(self) -> None: ...
    def state(self) -> State: ...
    def restore(self, state: State) -> None: ...


_MEMBERS = ("learns", "start", "groups", "optimiser", "gradients", "show_mean", "state", "restore")
"""Those of `Learner` that a class has."""

METHODS: dict[str, type[Learner]] = {"vi": VI, "ivon": Ivon, "map": Map}


def method_of(name: str) -> type[Learner]:
    """The class of a method's name or import path. Raises TombolaError for an unknown one, for what is no method, and for
    one that learns a family that is not registered."""
    found = plugins.resolve(name, METHODS, "method")
    if missing := [member for member in _MEMBERS if not hasattr(found, member)]:
        raise TombolaError(
            f"method {name!r} is no method: it has no `{missing[0]}`; give a class such as {', '.join(METHODS)}"
        )
    family_of(found.learns)
    return found


def is_deterministic(method: str) -> bool:
    """Return whether the method of that name or import path learns a point."""
    return method_of(method).learns == Point.family


__all__ = ["METHODS", "OBJECTIVES", "VI", "Batch", "Ivon", "Learner", "Map", "is_deterministic", "method_of"]
