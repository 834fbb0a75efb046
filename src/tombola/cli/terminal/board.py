"""What is known of a plan while it is run or followed: counts, what has ended and failed, the forecast."""

import math
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tombola.engine.forecast import Forecast, epoch_steps, work_of
from tombola.engine.local import dataset
from tombola.engine.progress import Progress, seen
from tombola.engine.store import Store
from tombola.pruning.rewind import step_of
from tombola.study.plan import Plan, curve_of, names_of, training_of
from tombola.study.stages import Stage

from .picture import Finished, Picture, Running

_KEPT = 6  # of the stages that have ended


class Board:
    """Kept up to date by whoever sees stages end, fail and get on; gives the picture of the moment."""

    def __init__(self, plan: Plan, store: Store, forecast: Forecast):
        self.names, self._store, self.forecast = names_of(plan), store, forecast
        self._study = plan.name
        self.stages = {stage.key: stage for stage in plan.stages}
        self._work = {key: work_of(stage, dataset) for key, stage in self.stages.items()}
        several = [column for column in ("model", "data") if len({row.labels[column] for row in plan.rows}) > 1]
        self._rows: dict[str, list[str]] = {}
        for row in plan.rows:
            self._rows.setdefault(row.stage.key, []).append(curve_of(row, several))
        self._total = Counter(curve for curves in self._rows.values() for curve in curves)
        self._evaluated: Counter[str] = Counter()
        self._done: set[str] = set()
        self._steps_done = 0
        self._finished: list[Finished] = []
        self.failed: dict[str, str] = {}
        """Key -> sentence."""
        for key in self.stages:
            if store.done(key):
                self._count(key)

    def done(self, key: str) -> bool:
        return key in self._done

    def ended(self, stage: Stage) -> None:
        """Reads what the store has of the stage."""
        if stage.key in self._done:
            return
        self._count(stage.key)
        self.failed.pop(stage.key, None)
        record = self._store.record(stage.key)
        seconds = record["run"]["seconds"]
        self.forecast.drop(stage, seconds)
        if worth_showing(record):
            self.show_finished([Finished(self.names[stage.key], seconds, result_of(record))])

    def show_finished(self, newest_first: list[Finished]) -> None:
        self._finished = [*newest_first, *self._finished][:_KEPT]

    def fell_out(self, stage: Stage, sentence: str) -> None:
        """The stage failed: it and what builds on it are no longer to be waited for."""
        self.failed[stage.key] = sentence
        lost = {stage.key}
        for key, one in self.stages.items():  # parents first
            if lost & {parent.key for parent in one.parents}:
                lost.add(key)
        for key in lost:
            self.forecast.drop(self.stages[key])

    def running(self, progress: Progress, state: str = "running", own: bool = False) -> Running:
        stage = self.stages[progress.key]
        return Running(progress, state, _epoch(stage, progress.done), self.forecast.stage_left(progress), own)

    def elsewhere(self) -> list[Running]:
        """What other processes are at."""
        others = [s for s in seen(self._store.unfinished) if s.state == "running" and not s.progress.of_this_process]
        return [
            self.running(s.progress)
            for s in others
            if s.progress.key in self.stages and not self._store.done(s.progress.key)
        ]

    def picture(self, running: Iterable[Running], since: float | None, processes: int = 1) -> Picture:
        """processes: that share the work."""
        running = list(running)
        at_work = [one.progress for one in running if one.state != "stopped"]
        under_way = sum(one.progress.done for one in running)
        return Picture(
            study=self._study,
            stages=(len(self._done), len(self.stages)),
            steps=(self._steps_done + under_way, sum(self._work.values())),
            now=time.time(),
            since=since,
            left=self.forecast.left(at_work, processes),
            running=running,
            finished=self._finished,
            failed=list(self.failed.values()),
            curves={curve: (self._evaluated[curve], total) for curve, total in self._total.items()},
        )

    def _count(self, key: str) -> None:
        self._done.add(key)
        self._steps_done += self._work[key]
        self._evaluated.update(self._rows.get(key, []))


def _epoch(stage: Stage, done: int) -> tuple[int, int] | None:
    """The epoch that follows `done` steps of the stage, of all in its schedule."""
    if (trained := training_of(stage)) is None:
        return None
    steps, epochs = epoch_steps(trained, dataset), trained.settings.epochs
    return min(((step_of(trained.start, steps) or 0) + done) // steps + 1, epochs), epochs


def worth_showing(record: dict[str, Any]) -> bool:
    """Not the prunings and shufflings of a moment, which would hide what was trained."""
    return bool(result_of(record)) or record["run"]["seconds"] >= 1


def result_of(record: dict[str, Any]) -> str:
    """The main number of a stage's record, if it has one."""
    found = record["record"]
    for name, words in (("accuracy", "accuracy {:.1%}"), ("rmse", "RMSE {:.4g}"), ("best_accuracy", "best {:.1%}")):
        value = found.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            return words.format(value)
    return ""
