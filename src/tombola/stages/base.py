"""What a stage is: settings with a key and a `run`."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..checkpoint import Checkpoint
from ..data import Dataset
from ..posterior.state import State
from ..settings import (
    DataSettings,
)
from ..ticket import Ticket

if TYPE_CHECKING:
    from .train import Train


@dataclass
class Surroundings:
    """Where a stage runs: what it may use but does not depend on."""

    device: torch.device
    data: Callable[[DataSettings], Dataset]
    """The data set, in memory or mapped from its file."""
    checkpoint: Checkpoint | None = None
    on_step: Callable[[int, int], None] | None = None
    on_epoch: Callable[[dict[str, float]], None] | None = None
    on_state: Callable[[int, State], None] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a stage gives: a ticket, and facts about it or its run."""

    ticket: Ticket | None
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """Frozen settings with a `run`."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    parents: tuple["Stage", ...] = ()

    def describe(self) -> dict[str, Any]:
        """Its own canonical settings, as JSON."""
        raise NotImplementedError

    def run(self, tickets: list[Ticket], around: Surroundings) -> Outcome:
        """Its outcome from its parents' tickets."""
        raise NotImplementedError

    @property
    def training(self) -> "Train | None":
        """The training that it is or repeats, whose steps forecasts and progress count."""
        return None

    @cached_property
    def key(self) -> str:
        return _hash([self.kind, self.version, self.describe(), [parent.key for parent in self.parents]])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]
