"""Forecast of the time that the rest of a plan takes: the work of each stage times the measured pace of its kind."""

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tombola.files import written_aside
from tombola.study.graph import Node

from .outline import TRAIN, Kind, Outline, OutlineStage
from .progress import Progress
from .store import Store, missing


class Forecast:
    """Paces of a plan's stages, and the work that is still to do.

    A stage's pace is taken from the finished stages of its kind (model, method, and the other settings that a step's cost
    depends on), else from steps that were timed for it beforehand (`guesses`), else from other trainings of the model.

    where: (device, threads) of the run; stages that were run elsewhere are then ignored.
    """

    def __init__(self, plan: Outline, store: Store, where: tuple[str, int] | None = None):
        self._spent: dict[Kind, tuple[float, float]] = {}
        self.guesses: dict[Kind, float] = {}
        """Seconds of a training step by kind, used until a whole stage was timed."""
        self.todo: dict[str, OutlineStage] = {}
        """Key -> stage that is still to run."""
        again = {stage.key for stage in missing(plan, store) if store.done(stage.key)}  # for their removed tickets
        for stage in plan.stages:
            if store.done(stage.key):
                record = store.record(stage.key)
                if where is None or where == (record["run"].get("device"), record["run"].get("threads")):
                    # an interrupted training was run several times: `run` has the seconds of the last time alone
                    self._learn(stage, record["record"].get("train_seconds", record["run"]["seconds"]))
            if stage.key in again or not store.done(stage.key):
                self.todo[stage.key] = stage

    def drop(self, stage: Node, seconds: float | None = None) -> None:
        """Count the stage as ended after `seconds`, or as one that will not be run."""
        if (own := self.todo.pop(stage.key, None)) is not None and seconds is not None:
            self._learn(own, seconds)

    def untimed(self) -> dict[Kind, OutlineStage]:
        """Return the kinds of trainings to do of which none was timed, with an example each."""
        found = {stage.work.kinds[0]: stage for stage in self.todo.values() if stage.kind == TRAIN}
        return {kind: stage for kind, stage in found.items() if kind not in self._spent and kind not in self.guesses}

    def stage_left(self, progress: Progress) -> float | None:
        """Return the seconds that a running stage will still take, at its own pace if it has one, else at its kind's."""
        if progress.key not in self.todo:
            return None
        work = self.todo[progress.key].work
        done, pace = self._own(progress)
        if pace is None:
            pace = self._pace(work.kinds, {})
            if pace is not None and not progress.total:  # it has no steps, so its progress is the time that has passed
                done = (time.time() - progress.stage_since) / pace if pace else 0.0
        return None if pace is None else max(0.0, work.units - done) * pace

    def left(self, running: Iterable[Progress] = (), processes: int = 1) -> float | None:
        """Return the seconds for all stages to do; None if a training has no pace yet.

        It takes the work to divide evenly over the processes, but no sooner than each running stage ends.
        """
        fresh: dict[Kind, float] = {}
        left: dict[str, float] = {}  # of running stages
        for progress in running:
            if (seconds := self.stage_left(progress)) is not None:
                left[progress.key] = seconds
            if progress.key in self.todo and (pace := self._own(progress)[1]) is not None:
                kinds = self.todo[progress.key].work.kinds
                fresh[kinds[0]] = pace
                fresh.update((kind, pace) for kind in kinds[1:] if kind not in self._spent)
        total = sum(left.values())
        for key, stage in self.todo.items():
            if key in left:
                continue
            pace = self._pace(stage.work.kinds, fresh)
            if pace is not None:
                total += stage.work.units * pace
            elif stage.kind == TRAIN:
                return None
        return max(total / max(1, processes), *left.values(), 0.0)

    def _own(self, progress: Progress) -> tuple[float, float | None]:
        """Return the (work done, seconds a unit of it in this process) of a running stage."""
        work = self.todo[progress.key].work
        if not work.epoch_steps or not progress.total:
            return 0.0, None
        per_step = work.units / progress.total
        if progress.steps_per_second is None:
            return progress.done * per_step, None
        measured = progress.timed_steps + progress.timed_epochs * work.passes
        return progress.done * per_step, progress.timed_seconds / measured

    def _pace(self, kinds: Iterable[Kind], fresh: dict[Kind, float]) -> float | None:
        """Return the seconds a unit of work. fresh: paces of the running stages, by kind."""
        for kind in kinds:
            seconds, work = self._spent.get(kind, (fresh.get(kind, self.guesses.get(kind)), 1.0))
            if seconds is not None:
                return seconds / work
        return None

    def _learn(self, stage: OutlineStage, seconds: float) -> None:
        own, units = stage.work.kinds, stage.work.units
        for kind in own if stage.kind == TRAIN else own[:1]:
            before, work = self._spent.get(kind, (0.0, 0.0))
            if units:
                self._spent[kind] = (before + seconds, work + units)


@dataclass
class Guesses:
    """Seconds a step by kind of training, and the (device, threads) with which they were timed."""

    where: tuple[str, int] = ("", 0)
    seconds: dict[Kind, float] = field(default_factory=dict)

    def give(self, forecast: Forecast, where: tuple[str, int] | None) -> None:
        """Give them to the forecast of a run at `where`; None: at any place."""
        if where is None or where == self.where:
            forecast.guesses.update(self.seconds)

    def joined(self, later: "Guesses") -> "Guesses":
        """Return them with later ones; the later ones alone, if these were timed elsewhere."""
        if not later.seconds:
            return self
        return Guesses(later.where, (self.seconds if self.where == later.where else {}) | later.seconds)

    def write(self, path: Path) -> None:
        """Write them to a file. A full disk is no error: the run goes on without them."""
        text = json.dumps({"where": self.where, "seconds": [[list(k), s] for k, s in self.seconds.items()]}, indent=1)
        with suppress(OSError), written_aside(path) as aside:
            aside.write_text(text)

    @classmethod
    def read(cls, path: Path) -> "Guesses":
        """Return the file's guesses; none if it is missing or damaged."""
        try:
            given = json.loads(path.read_text())
            device, threads = given["where"]
            return cls((str(device), int(threads)), {tuple(kind): float(seconds) for kind, seconds in given["seconds"]})
        except (OSError, ValueError, KeyError, TypeError):
            return cls()
