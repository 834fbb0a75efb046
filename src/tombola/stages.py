"""The stages of a study: each takes its parents' tickets and gives a ticket or a record.

A stage is its settings. Its key hashes them (only what differs from a default), the data's fingerprint, the source of user
code, its version and its parents' keys, so a finished stage is never run again, whichever study it came from.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch

from . import plugins, streams
from .batches import TensorBatches
from .checkpoint import Checkpoint
from .data import Dataset, training_batches
from .evaluation import evaluate_ticket
from .flops import flops_per_example
from .inference import METHODS, OBJECTIVES, method_of
from .ingredients import Net, Source
from .models.weights import fingerprint, load_weights
from .optim import SCHEDULES
from .posterior.estimators import ESTIMATORS
from .posterior.state import State, initial_state, layout_of
from .pruning.iterate import prune_ticket, shuffled, transplanted
from .pruning.scores import SCORES
from .rewind import step_of
from .settings import (
    DataSettings,
    EvaluateSettings,
    PosteriorSettings,
    PruneSettings,
    TrainSettings,
    canonical,
)
from .ticket import Ticket, ticket_of, with_mask
from .training import Trained, train

_COUNTED = 8  # examples of the step whose operations are counted: enough for batch norm


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Init(Stage):
    """The dense start. `draw` tells the first drawing of the weights from re-drawn ones."""

    kind: ClassVar[str] = "init"
    net: Net
    posterior: PosteriorSettings
    prune: PruneSettings
    seed: int
    draw: str = "first"

    def describe(self) -> dict[str, Any]:
        roles = {name: v for name, v in canonical(self.prune).items() if name in ("classifier", "include", "exclude")}
        own = self.net.describe() | canonical(self.posterior) | roles | {"seed": self.seed, "draw": self.draw}
        return own | ({"weights": fingerprint(self._weights)} if self._weights else {})

    @property
    def _weights(self) -> str:
        return self.net.settings.weights if self.draw == "first" else ""  # re-drawn weights are not pre-trained

    def run(self, tickets: list[Ticket], around: Surroundings) -> Outcome:
        module = self.net.build(self.seed, self.draw)
        if self._weights:
            load_weights(module, self._weights)
        layout = layout_of(module, self.posterior, self.prune)
        state = initial_state(module, layout, self.posterior, self.seed, self.draw, self.net.words)
        info = {
            "model": self.net.info(),
            "seed": self.seed,
            "level": 0,
            "settings": {"posterior": canonical(self.posterior)},
        }
        return Outcome(ticket_of(state, info))


@dataclass(frozen=True, kw_only=True, eq=False)
class Train(Stage):
    """Trains its parent's rewind state under its mask, from `start` of the schedule to `stop`."""

    kind: ClassVar[str] = "train"
    version: ClassVar[int] = 2  # since pruned weights are no longer drawn
    net: Net
    source: Source
    settings: TrainSettings
    seed: int
    start: str = ""
    """"", "epoch:K" or "step:K"."""
    stop: str = ""
    split: str = "test"
    """What the history is measured on."""
    replica: int = 0
    """Others than 0 draw another order, augmentation and noise from the same start."""

    @property
    def training(self) -> "Train":
        return self

    def describe(self) -> dict[str, Any]:
        own = self.net.describe() | self.source.describe() | canonical(self.settings) | {"seed": self.seed}
        augmentation = {name: v for name in ("flip", "crop") if (v := getattr(self.source.settings, name))}
        own |= augmentation
        for what, name, known in (
            ("method", self.settings.method, METHODS),
            ("schedule", self.settings.schedule, SCHEDULES),
            ("estimator", self.settings.estimator, ESTIMATORS),
            ("objective", self.settings.objective, OBJECTIVES),
        ):
            source = plugins.source_digest(name, known)
            own |= {f"{what}_source": source} if source else {}
        split = "" if self.split == "test" else self.split
        later = {"start": self.start, "stop": self.stop, "split": split, "replica": self.replica}
        return own | {name: v for name, v in later.items() if v}

    def run(self, tickets: list[Ticket], around: Surroundings) -> Outcome:
        (parent,) = tickets
        batches = self.batches(around)
        trained = train(
            self.net.build("skeleton").to(around.device),
            self.start_state(parent).to(around.device),
            batches,
            self.settings,
            words=self.words,
            checkpoint=around.checkpoint,
            on_state=around.on_state,
            **self.course(batches.steps, around),
        )
        return self.outcome(parent, trained, batches, around)

    def batches(self, around: Surroundings) -> TensorBatches:
        data = around.data(self.source.settings)
        order = f"{self.seed}, replica {self.replica}" if self.replica else self.seed
        return training_batches(data, self.source.settings, self.settings.batch_size, order, around.device)

    def start_state(self, parent: Ticket) -> State:
        return parent.rewind.as_point() if method_of(self.settings.method).deterministic else parent.rewind

    @property
    def words(self) -> tuple[streams.Word, ...]:
        """Of its noise: a shorter run, or one watched elsewhere, draws the same."""
        return self.seed, replace(self, stop="", split="test").key

    def course(self, steps: int, around: Surroundings) -> dict[str, Any]:
        """What all trainings of its kind are given alike. steps: of an epoch."""
        data = around.data(self.source.settings)
        return {
            "start": step_of(self.start, steps) or 0,
            "stop": step_of(self.stop, steps),
            "validation": data.held_out(self.split),
            "prepare": data.prepare,
            "on_step": around.on_step,
            "on_epoch": around.on_epoch,
        }

    def outcome(self, parent: Ticket, trained: Trained, batches: TensorBatches, around: Surroundings) -> Outcome:
        info = parent.info | {
            "data": self.source.info(),
            "history": trained.history,
            "stage": self.key,
            "parents": [p.key for p in self.parents],
        }
        info["settings"] = parent.info.get("settings", {}) | {"train": canonical(self.settings)}
        ticket = replace(parent, rewind=self.start_state(parent), trained=trained.state.to("cpu"), info=info)
        steps = len(trained.history) * batches.steps
        record = {
            "train_seconds": trained.seconds,
            "train_flops": len(trained.history) * batches.examples * self._flops(self.start_state(parent), around),
            "best_accuracy": max((row["accuracy"] for row in trained.history if "accuracy" in row), default=math.nan),
            "steps": steps,
        }
        return Outcome(ticket, record)

    def _flops(self, state: State, around: Surroundings) -> float:
        """Of one example of a step; NaN where torch cannot count what the module does."""
        data, module = around.data(self.source.settings), self.net.build("skeleton").to(around.device)
        inputs, targets = (part[:_COUNTED].to(around.device) for part in data.train)
        try:
            return flops_per_example(module, state.to(around.device), self.settings, (data.prepare(inputs), targets))
        except Exception:  # the training itself has succeeded
            return math.nan


@dataclass(frozen=True, kw_only=True, eq=False)
class Prune(Stage):
    """The next level. Parents: the trained ticket, and where survivors restart (the same one: learning-rate rewinding)."""

    kind: ClassVar[str] = "prune"
    score: str
    fraction: float
    scope: str
    seed: int
    sigma: str = "trained"

    def describe(self) -> dict[str, Any]:
        source = plugins.source_digest(self.score, SCORES)
        own = {"score": self.score, "fraction": self.fraction, "scope": self.scope, "seed": self.seed}
        own |= {"sigma": self.sigma} if self.sigma != "trained" else {}
        return own | ({"source": source} if source else {})

    def run(self, tickets: list[Ticket], around: Surroundings) -> Outcome:
        trained, start = tickets
        ticket = prune_ticket(
            trained,
            _start_of(start),
            name=self.score,
            score=plugins.resolve(self.score, SCORES, "score"),
            fraction=self.fraction,
            scope=self.scope,
            sigma=self.sigma,
            generator=streams.generator("score", self.seed, self.key),
        )
        info = {k: v for k, v in trained.info.items() if k != "history"}
        return Outcome(
            replace(ticket, info=info | {"level": trained.info["level"] + 1, "score": self.score, "stage": self.key})
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Redraw(Stage):
    """Weights drawn anew, mask kept. Parents: the pruned ticket, the new dense start."""

    kind: ClassVar[str] = "redraw"

    def describe(self) -> dict[str, Any]:
        return {}

    def run(self, tickets: list[Ticket], around: Surroundings) -> Outcome:
        pruned, start = tickets
        return Outcome(with_mask(pruned, pruned.mask, _start_of(start)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Shuffle(Stage):
    """Mask shuffled, weights kept. Parents: the pruned ticket, the dense start."""

    kind: ClassVar[str] = "shuffle"
    how: str
    seed: int

    def describe(self) -> dict[str, Any]:
        return {"how": self.how, "seed": self.seed}

    def run(self, tickets: list[Ticket], around: Surroundings) -> Outcome:
        pruned, start = tickets
        stream = streams.generator("shuffle", self.seed, self.key)
        return Outcome(shuffled(pruned, _start_of(start), self.how, stream))


@dataclass(frozen=True, kw_only=True, eq=False)
class Transplant(Stage):
    """A deterministic ticket in a Bayesian network. Parents: the pruned deterministic ticket, the Bayesian start."""

    kind: ClassVar[str] = "transplant"

    def describe(self) -> dict[str, Any]:
        return {}

    def run(self, tickets: list[Ticket], around: Surroundings) -> Outcome:
        pruned, bayesian = tickets
        return Outcome(transplanted(pruned, bayesian.rewind))


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluate(Stage):
    """Metrics of a trained ticket on a held-out split."""

    kind: ClassVar[str] = "evaluate"
    net: Net
    source: Source
    settings: EvaluateSettings
    train: TrainSettings
    seed: int

    def describe(self) -> dict[str, Any]:
        return self.net.describe() | self.source.describe() | canonical(self.settings) | {"seed": self.seed}

    def run(self, tickets: list[Ticket], around: Surroundings) -> Outcome:
        (ticket,) = tickets
        data = around.data(self.source.settings)
        module = self.net.build("skeleton").to(around.device)
        words, examples = (self.seed, self.key), data.held_out(self.settings.split)
        return Outcome(
            None,
            evaluate_ticket(module, ticket, examples, self.settings, self.train, words, around.device, data.prepare),
        )


def _start_of(ticket: Ticket) -> State:
    """Where to restart: a dense start, or what a shortened training reached."""
    return ticket.trained or ticket.rewind


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]
