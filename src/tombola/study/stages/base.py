"""What a stage is: settings with a key and a `run`."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn

from tombola import models, plugins, streams
from tombola.data import DATA, Dataset
from tombola.posterior.state import State
from tombola.pruning.ticket import Ticket
from tombola.settings import DataSettings, ModelSettings
from tombola.training.checkpoint import Checkpoint


@dataclass
class RunContext:
    """The place where a stage runs: what it may use but does not depend on."""

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

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        """Its outcome from its parents' tickets."""
        raise NotImplementedError

    @cached_property
    def key(self) -> str:
        return _hash([self.kind, self.version, self.describe(), [parent.key for parent in self.parents]])


def ancestors(*stages: Stage, known: Callable[[str], bool] = lambda key: False) -> list[Stage]:
    """Return the stages and all that they depend on, each once, parents first; the first one is the dense start.

    known: tells by key which stages are left out, with what only they depend on.
    """
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in found and not known(stage.key):
            for parent in stage.parents:
                visit(parent)
            found[stage.key] = stage

    for stage in stages:
        visit(stage)
    return list(found.values())


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Net:
    """A model as built for a data set's shapes."""

    settings: ModelSettings
    input_shape: tuple[int, ...]
    outputs: int

    @property
    def identity(self) -> str:
        return json.dumps([self.settings.name, self.settings.args, self.input_shape, self.outputs], sort_keys=True)

    def describe(self) -> dict[str, Any]:
        source = plugins.source_digest(self.settings.name, models.MODELS)
        return {"net": self.identity} | ({"source": source} if source else {})

    def build(self, *stream: streams.Word) -> nn.Module:
        return models.build(self.settings.name, self.settings.args, self.input_shape, self.outputs, (*stream, self.identity))

    def info(self) -> dict[str, Any]:
        return {
            "name": self.settings.name,
            "args": self.settings.args,
            "input_shape": list(self.input_shape),
            "outputs": self.outputs,
        }


@dataclass(frozen=True)
class Source:
    """A data set with its fingerprint."""

    settings: DataSettings
    fingerprint: str

    def describe(self) -> dict[str, Any]:
        source = plugins.source_digest(self.settings.name, DATA)
        return {"fingerprint": self.fingerprint} | ({"source": source} if source else {})

    def info(self) -> dict[str, Any]:
        return {"name": self.settings.name, "args": self.settings.args, "fingerprint": self.fingerprint}
