"""Stage that trains a ticket."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tombola import plugins, streams
from tombola.data import training_batches
from tombola.data.batches import Batches
from tombola.inference import METHODS, OBJECTIVES, is_deterministic, method_of
from tombola.inference.estimators import ESTIMATORS
from tombola.posterior.predictive import statistics_of
from tombola.posterior.state import State
from tombola.pruning.iterate import with_end
from tombola.pruning.rewind import step_of
from tombola.pruning.ticket import Ticket
from tombola.settings import TrainSettings
from tombola.settings.keys import canonical
from tombola.training.costs import kept_counts
from tombola.training.flops import flops_per_example
from tombola.training.loop import Trained, train_side_by_side
from tombola.training.optim import SCHEDULES
from tombola.training.ranks import Ranks
from tombola.training.reference import reference_of
from tombola.training.work import Training

from .base import COUNTED, Net, Outcome, RunContext, Source, Stage, operations_in

_FLOPS: dict[str, float] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Train(Stage):
    """Training of its parent's rewind state under its mask, from `start` of the schedule to `stop`."""

    kind: ClassVar[str] = "train"
    version: ClassVar[int] = 3  # since the noise of convolutions falls in channels-last order
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
        augmentation = {name: v for name in ("flip", "crop", "alternate_flip") if (v := getattr(self.source.settings, name))}
        own |= augmentation
        for what, name, known in (
            ("method", self.settings.method, METHODS),
            ("schedule", self.settings.schedule, SCHEDULES),
            ("estimator", self.settings.estimator, ESTIMATORS),
            ("objective", self.settings.objective, OBJECTIVES),
        ):
            source = plugins.source_digest(name, known)
            own |= {f"{what}_source": source} if source else {}
        own |= {"batch_norm": "samples"} if self._has_own_statistics else {}
        split = "" if self.split == "test" else self.split
        later = {"start": self.start, "stop": self.stop, "split": split, "replica": self.replica}
        return own | {name: v for name, v in later.items() if v}

    @property
    def _has_own_statistics(self) -> bool:
        return self.net.norm.measures and not is_deterministic(self.settings.method)

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        (outcome,) = train_stages([self], tickets, [context])
        return outcome

    def of(self, parent: Ticket, context: RunContext) -> Training:
        """Return the arguments of its training."""
        data, batches = context.data(self.source.settings), self.batches(context)
        return Training(
            module=self.net.build("skeleton").to(context.device),
            state=self.start_state(parent).to(context.device),
            batches=batches,
            settings=self.settings,
            stream=self.stream,
            validation=data.held_out(self.split) if not context.brief else None,
            prepare=data.prepare,
            on_epoch=context.on_epoch,
            on_state=context.on_state,
            ranks=Ranks(context.fabric, same_sample=True) if context.fabric else None,
        )

    @property
    def pace(self) -> tuple[Any, ...]:
        """Return that in which trainings must agree to go side by side: the number of their steps, and its parts."""
        own = self.settings
        data = self.source.fingerprint
        return data, own.epochs, own.batch_size, own.cuda_graphs, self.start, self.stop

    def batches(self, context: RunContext) -> Batches:
        data = context.data(self.source.settings)
        order = f"{self.seed}, replica {self.replica}" if self.replica else self.seed
        return training_batches(data, self.source.settings, self.settings.batch_size, order, context.device)

    def start_state(self, parent: Ticket) -> State:
        return parent.rewind.as_family(method_of(self.settings.method).learns)

    @property
    def stream(self) -> streams.Name:
        """Return the stream of its noise, equal for a shorter run and for another held-out split."""
        return self.seed, replace(self, stop="", split="test").key

    def outcome(self, parent: Ticket, trained: Trained, batches: Batches, context: RunContext) -> Outcome:
        info = parent.info | {
            "data": self.source.info(),
            "inputs": context.data(self.source.settings).signature.to_json(),
            "history": trained.history,
            "stage": self.key,
            "parents": [p.key for p in self.parents],
        }
        info["settings"] = parent.info.get("settings", {}) | {"train": canonical(self.settings)}
        ticket = with_end(replace(parent, rewind=self.start_state(parent), info=info), trained.state)
        if self._has_own_statistics and not context.brief:
            module = self.net.build("skeleton").to(context.device)
            ticket = replace(ticket, statistics=statistics_of(module, trained.state, reference_of(batches)))
        total = self.settings.epochs * batches.steps
        stop, start = step_of(self.stop, batches.steps), step_of(self.start, batches.steps) or 0
        steps = (total if stop is None else min(stop, total)) - start
        examples = steps / batches.steps * batches.examples  # exact for whole epochs
        flops = examples * self._flops(self.start_state(parent), context)
        record = {
            "train_seconds": trained.seconds,
            "train_flops": flops,
            "train_flops_sparse": flops * self._left(ticket, trained, steps, context),
            "best_accuracy": max((row["accuracy"] for row in trained.history if "accuracy" in row), default=math.nan),
            "steps": steps,
        }
        return Outcome(ticket, record, trained.history)

    def _left(self, ticket: Ticket, trained: Trained, steps: int, context: RunContext) -> float:
        """Return the share of the operations that surviving weights take; NaN if unknown.

        A step that grows weights by gradient needs the gradient of all weights, a third of a dense step (Evci et al. 2020,
        appendix H).
        """
        operations = operations_in(self.net, context.data(self.source.settings), context.device)
        if operations is None:
            return math.nan
        kept = trained.kept.counts if trained.kept else kept_counts(ticket.layout, ticket.mask)
        left, grown = operations.left(ticket.layout, kept), trained.kept.grown if trained.kept else 0
        return left + grown / max(1, steps) * (1 - left) / 3

    def _flops(self, state: State, context: RunContext) -> float:
        """Return the FLOPs of a step's one example; NaN if torch cannot count the module's operations.

        They are counted once a process, because they are equal for other seeds, masks and schedules.
        """
        layout = state.posterior.layout
        kind = json.dumps([self.net.describe(), canonical(self.settings), layout.random_numel, layout.numel], sort_keys=True)
        if kind not in _FLOPS:
            data, module = context.data(self.source.settings), self.net.build("skeleton").to(context.device)
            inputs, targets = (part[:COUNTED].to(context.device) for part in data.train)
            try:
                batch = data.prepare(inputs), targets
                _FLOPS[kind] = flops_per_example(module, state.to(context.device), self.settings, batch)
            except Exception:  # no reason to lose the training, which has succeeded
                _FLOPS[kind] = math.nan
        return _FLOPS[kind]


def train_stages(stages: Sequence[Train], parents: Sequence[Ticket], contexts: Sequence[RunContext]) -> list[Outcome]:
    """Run trainings of one pace side by side, each from its parent's ticket. A checkpoint and steps are the first one's."""
    trainings = [stage.of(parent, where) for stage, parent, where in zip(stages, parents, contexts, strict=True)]
    found = _trained(stages[0], trainings, contexts[0])
    return [
        stage.outcome(parent, trained, training.batches, context)
        for stage, parent, trained, training, context in zip(stages, parents, found, trainings, contexts, strict=True)
    ]


def join(stage: Train, parent: Ticket, context: RunContext) -> None:
    """Make the steps of a training with the process that runs the stage, in whose outcome they end."""
    _trained(stage, [stage.of(parent, context)], context)


def _trained(first: Train, trainings: list[Training], context: RunContext) -> list[Trained]:
    steps = trainings[0].batches.steps
    return train_side_by_side(
        trainings,
        start=step_of(first.start, steps) or 0,
        stop=step_of(first.stop, steps),
        checkpoint=context.checkpoint,
        on_step=context.on_step,
    )
