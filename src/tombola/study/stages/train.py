"""Stage that trains a ticket."""

import json
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tombola import plugins, streams
from tombola.data import training_batches
from tombola.data.batches import TensorBatches
from tombola.inference import METHODS, OBJECTIVES, method_of
from tombola.inference.estimators import ESTIMATORS
from tombola.posterior.state import State
from tombola.pruning.rewind import step_of
from tombola.pruning.ticket import Ticket
from tombola.settings import TrainSettings
from tombola.settings.keys import canonical
from tombola.training.flops import flops_per_example
from tombola.training.loop import Trained, train
from tombola.training.optim import SCHEDULES

from .base import Net, Outcome, RunContext, Source, Stage

_COUNTED = 8  # examples of the step whose operations are counted: enough for batch norm
_FLOPS: dict[str, float] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Train(Stage):
    """Training of its parent's rewind state under its mask, from `start` of the schedule to `stop`."""

    kind: ClassVar[str] = "train"
    version: ClassVar[int] = 2  # since pruned weights are no longer drawn
    net: Net
    source: Source
    settings: TrainSettings
    seed: int
    start: str = ""
    """Point of the schedule: "", "epoch:K" or "step:K"."""
    stop: str = ""
    split: str = "test"
    """Split on which the history is measured."""
    replica: int = 0
    """Others than 0 draw another order, augmentation and noise from the same start."""

    @property
    def training(self) -> "Train":
        """Return the training itself (`plan.training_of`)."""
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

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        (parent,) = tickets
        data, batches = context.data(self.source.settings), self.batches(context)
        trained = train(
            self.net.build("skeleton").to(context.device),
            self.start_state(parent).to(context.device),
            batches,
            self.settings,
            stream=self.stream,
            start=step_of(self.start, batches.steps) or 0,
            stop=step_of(self.stop, batches.steps),
            validation=data.held_out(self.split),
            prepare=data.prepare,
            checkpoint=context.checkpoint,
            on_step=context.on_step,
            on_epoch=context.on_epoch,
            on_state=context.on_state,
        )
        return self.outcome(parent, trained, batches, context)

    def batches(self, context: RunContext) -> TensorBatches:
        data = context.data(self.source.settings)
        order = f"{self.seed}, replica {self.replica}" if self.replica else self.seed
        return training_batches(data, self.source.settings, self.settings.batch_size, order, context.device)

    def start_state(self, parent: Ticket) -> State:
        return parent.rewind.as_family(method_of(self.settings.method).learns)

    @property
    def stream(self) -> streams.Name:
        """Return the stream of its noise, equal for a shorter run and for another held-out split."""
        return self.seed, replace(self, stop="", split="test").key

    def outcome(self, parent: Ticket, trained: Trained, batches: TensorBatches, context: RunContext) -> Outcome:
        info = parent.info | {
            "data": self.source.info(),
            "history": trained.history,
            "stage": self.key,
            "parents": [p.key for p in self.parents],
        }
        info["settings"] = parent.info.get("settings", {}) | {"train": canonical(self.settings)}
        ticket = replace(parent, rewind=self.start_state(parent), trained=trained.state.to("cpu"), info=info)
        total = self.settings.epochs * batches.steps
        stop, start = step_of(self.stop, batches.steps), step_of(self.start, batches.steps) or 0
        steps = (total if stop is None else min(stop, total)) - start
        examples = steps / batches.steps * batches.examples  # exact for whole epochs
        record = {
            "train_seconds": trained.seconds,
            "train_flops": examples * self._flops(self.start_state(parent), context),
            "best_accuracy": max((row["accuracy"] for row in trained.history if "accuracy" in row), default=math.nan),
            "steps": steps,
        }
        return Outcome(ticket, record)

    def _flops(self, state: State, context: RunContext) -> float:
        """Return the FLOPs of a step's one example; NaN if torch cannot count the module's operations.

        They are counted once a process, because they are equal for other seeds, masks and schedules.
        """
        layout = state.posterior.layout
        kind = json.dumps([self.net.describe(), canonical(self.settings), layout.random_numel, layout.numel], sort_keys=True)
        if kind not in _FLOPS:
            data, module = context.data(self.source.settings), self.net.build("skeleton").to(context.device)
            inputs, targets = (part[:_COUNTED].to(context.device) for part in data.train)
            try:
                batch = data.prepare(inputs), targets
                _FLOPS[kind] = flops_per_example(module, state.to(context.device), self.settings, batch)
            except Exception:  # no reason to lose the training, which has succeeded
                _FLOPS[kind] = math.nan
        return _FLOPS[kind]
