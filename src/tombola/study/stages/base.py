"""Base of stages: frozen settings with a key and a `run`."""

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn

from tombola import models, plugins, streams
from tombola.data import DATA, Dataset
from tombola.posterior.batch_norm import has_batch_norm, measuring_layers
from tombola.posterior.cancelled import cancelled_biases
from tombola.posterior.state import State
from tombola.pruning.ticket import Ticket
from tombola.settings import DataSettings, ModelSettings
from tombola.training.checkpoint import Checkpoint
from tombola.training.costs import Operations, operations_of
from tombola.training.ranks import Fabric

COUNTED = 8
"""Examples of a pass whose operations are counted: enough for batch norm."""


@dataclass
class RunContext:
    """Place where a stage runs: its outcome may use these, but does not depend on them."""

    device: torch.device
    data: Callable[[DataSettings], Dataset]
    """Function that gives the data set of settings, in memory or mapped from its file."""
    checkpoint: Checkpoint | None = None
    on_step: Callable[[int, int], None] | None = None
    on_epoch: Callable[[dict[str, float]], None] | None = None
    on_state: Callable[[int, State], None] | None = None
    brief: bool = False
    """True leaves out what records do not have: held-out metrics at each epoch's end, statistics for predictions."""
    fabric: Fabric | None = None
    """Fabric of the processes that make the steps of a training together, of one weight sample each."""


@dataclass(frozen=True)
class Outcome:
    """Result of a stage: a ticket, and facts about it or its run."""

    ticket: Ticket | None
    record: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    """Rows of a training's epochs, as of `Trained`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """Frozen settings with a `run`."""

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    """Part of the key: raise it when the stage's code changes its outcomes, so that stored ones are not used."""
    parents: tuple["Stage", ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return its own canonical settings, as JSON."""
        raise NotImplementedError

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        """Return its outcome, from its parents' tickets."""
        raise NotImplementedError

    @cached_property
    def key(self) -> str:
        """Return the hash of its settings and of its parents' keys."""
        return _hash([self.kind, self.version, self.describe(), [parent.key for parent in self.parents]])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Norm:
    """Batch norm of a net."""

    exists: bool
    measures: bool
    """True with running statistics: mean and weight samples of a Bayesian network then have their own."""
    cancelled: tuple[str, ...]
    """Biases that it takes out, as of `cancelled_biases`."""


_NORMS: dict[str, Norm] = {}  # by net: its module is built once a process


@dataclass(frozen=True)
class Net:
    """A model as built for a data set's shapes."""

    settings: ModelSettings
    input_shape: tuple[int, ...]
    outputs: int

    @cached_property
    def identity(self) -> str:
        """Return the settings and shapes as text, which streams and keys use as the net's name."""
        return json.dumps([self.settings.name, self.settings.args, self.input_shape, self.outputs], sort_keys=True)

    @property
    def norm(self) -> "Norm":
        """Return what batch norm means for the net."""
        plugins.resolve(self.settings.name, models.MODELS, "model")  # with an error that says what it is
        kind = json.dumps(self.describe())
        if kind not in _NORMS:
            _NORMS[kind] = self._norm()
        return _NORMS[kind]

    def _norm(self) -> "Norm":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # shown when a stage builds the net
            module = self.build("skeleton")
        if not has_batch_norm(module):
            return Norm(False, False, ())
        try:
            found = cancelled_biases(module, torch.zeros(2, *self.input_shape))
        except Exception as error:
            warnings.warn(
                f"model {self.settings.name!r} does not run on zeros ({error}); biases before its batch norms stay random",
                stacklevel=2,
            )
            found = frozenset()
        return Norm(True, bool(measuring_layers(module)), tuple(sorted(found)))

    @cached_property
    def fits_first_layer(self) -> bool:
        """Return whether its start depends on training data."""
        return isinstance(self.build("check"), models.FitsFirstLayer)

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


_OPERATIONS: dict[str, Operations | None] = {}  # by net: they are equal for all tickets of one


def operations_in(net: Net, data: Dataset, device: torch.device) -> Operations | None:
    """Return the operations of a net's forward pass, counted once a process; None if torch cannot count them."""
    kind = json.dumps(net.describe(), sort_keys=True)
    if kind not in _OPERATIONS:
        try:
            inputs = data.prepare(data.train[0][:COUNTED].to(device))
            _OPERATIONS[kind] = operations_of(net.build("skeleton").to(device), inputs)
        except Exception:  # no reason to lose the stage, which has succeeded
            _OPERATIONS[kind] = None
    return _OPERATIONS[kind]


@dataclass(frozen=True)
class Source:
    """A data set with its fingerprint."""

    settings: DataSettings
    fingerprint: str

    def describe(self) -> dict[str, Any]:
        source = plugins.source_digest(self.settings.name, DATA)
        return {"fingerprint": self.fingerprint} | ({"data_source": source} if source else {})  # "source" is the net's

    def info(self) -> dict[str, Any]:
        return {"name": self.settings.name, "args": self.settings.args, "fingerprint": self.fingerprint}
