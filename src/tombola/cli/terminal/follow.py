"""Progress of a study in this process or in others, from the store, the progress files and the logs of failures."""

import math
import time
from collections import Counter
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from tombola.engine.forecast import Forecast, Guesses
from tombola.engine.outline import Outline, OutlineStage
from tombola.engine.progress import Progress, Seen, seen
from tombola.engine.store import Store, missing
from tombola.study.graph import curve_of, several_of

from .picture import Finished, Picture, Running

_SHOWN = 6  # of the stages that have ended


class Follower:
    """Observer of a study: each look reads only what is new, and returns the picture of the moment."""

    def __init__(self, plan: Outline, store: Store, timings: Path):
        self._plan, self._store, self._timings = plan, store, timings
        self._stages = {stage.key: stage for stage in plan.stages}
        self._steps = {key: stage.work.steps for key, stage in self._stages.items()}
        several = several_of(plan)
        self._tickets = [(curve_of(row, several), row.stage.key) for row in plan.rows]
        self._again = {stage.key for stage in missing(plan, store) if store.done(stage.key)}  # for their removed tickets
        self._done: set[str] = set()
        self._finished: list[Finished] = []
        self._forecast: Forecast | None = None
        self._where: tuple[str, int] | None = None
        self.runs: list[Seen] = []
        """Processes at this study or at one of its stages at the last look, stopped ones too."""
        self.own: Progress | None = None
        """Progress of the run in this process, if any; it is newer than its file."""
        self.failures: dict[str, str] = {}
        """Key -> sentence, for failures in this process; it may say more than the log does."""

    def look(self) -> Picture:
        own = copy(self.own)  # the engine's thread changes it while this one draws
        found = [replace(s, progress=own) if own and s.progress.of_this_process else s for s in seen(self._store.unfinished)]
        self.runs = [s for s in found if s.progress.study == self._plan.name or s.progress.key in self._stages]
        alive = [one.progress for one in self.runs if one.state != "stopped"]
        forecast = self._read_what_ended((alive[0].device, alive[0].threads) if alive else None)
        since = self.own.since if self.own else min((progress.since for progress in alive), default=None)
        failed = self._failed(forecast, {progress.key for progress in alive}, since)
        running: dict[str, Running] = {}  # by stage: one that stopped and runs again counts as running
        for one in sorted(self.runs, key=lambda one: ("stopped", "silent", "running").index(one.state)):
            if one.progress.key in self._stages and one.progress.key not in self._done:
                running[one.progress.key] = self._running(one, forecast)
        under_way = sum(one.progress.done for one in running.values())
        done, total = Counter(c for c, key in self._tickets if key in self._done), Counter(c for c, _ in self._tickets)
        return Picture(
            study=self._plan.name,
            stages=(len(self._done), len(self._stages)),
            steps=(sum(self._steps[key] for key in self._done) + under_way, sum(self._steps.values())),
            now=time.time(),
            since=since,
            left=forecast.left([progress for progress in alive if progress.key in running], len(alive)),
            running=list(running.values()),
            finished=self._finished,
            failed=failed,
            curves={curve: (done[curve], count) for curve, count in total.items()},
        )

    @property
    def runs_now(self) -> bool:
        """True if a process was at work at the last look, as far as is known."""
        return any(one.state != "stopped" for one in self.runs)

    def _read_what_ended(self, where: tuple[str, int] | None) -> Forecast:
        """Return the forecast without the stages that ended since the last look; a new one for another device."""
        ended = [key for key in self._store.keys() & self._stages.keys() - self._done if self._store.done(key)]
        ended = [key for key in ended if key not in self._again or self._store.has_ticket(key)]
        ended.sort(key=self._store.finished, reverse=True)
        if self._forecast is None or (where is not None and where != self._where):
            self._where, self._forecast = where, Forecast(self._plan, self._store, where)
            Guesses.read(self._timings).give(self._forecast, where)
        newest: list[Finished] = []
        for key in ended:
            if key in self._forecast.todo or len(newest) < _SHOWN:
                record = self._store.record(key)
                seconds, result = record["run"]["seconds"], result_of(record)
                self._forecast.drop(self._stages[key], seconds)
                if result or seconds >= 1:  # short prunings and shuffles would hide the trainings
                    newest.append(Finished(self._stages[key].name, seconds, result))
        self._done.update(ended)
        self._finished = [*newest, *self._finished][:_SHOWN]
        return self._forecast

    def _failed(self, forecast: Forecast, at_work: set[str], since: float | None) -> list[str]:
        """Return a sentence for each failure, and drop from the forecast the stages that build on one of this run."""
        failed: list[str] = []
        logged = {path.stem for path in self._store.unfinished.glob("*.error")} - self._done - at_work
        for key in [key for key in self._stages if key in logged]:
            failed_at, said = self._store.failure(key)
            if not said:  # it will be tried again
                continue
            log = f"{self._stages[key].name} failed: {said} (details in {self._store.error_path(key)})"
            failed.append(self.failures.get(key, log))
            if since is not None and failed_at >= since:
                lost = {key}
                for stage in self._stages.values():  # parents first
                    if lost & {stage.key, *(parent.key for parent in stage.parents)}:
                        lost.add(stage.key)
                        forecast.drop(stage)
        return failed

    def _running(self, one: Seen, forecast: Forecast) -> Running:
        progress = one.progress
        epoch, left = _epoch(self._stages[progress.key], progress.done), forecast.stage_left(progress)
        return Running(progress, one.state, epoch, left, own=self.own is not None and progress.of_this_process)


def _epoch(stage: OutlineStage, done: int) -> tuple[int, int] | None:
    """Return the epoch that follows `done` steps of the stage, and the number of epochs of its schedule."""
    work = stage.work
    return (min((work.first + done) // work.epoch_steps + 1, work.epochs), work.epochs) if work.epoch_steps else None


def result_of(record: dict[str, Any]) -> str:
    """Return the main number of a stage's record in words, if it has one."""
    found = record["record"]
    for name, words in (("accuracy", "accuracy {:.1%}"), ("rmse", "RMSE {:.4g}"), ("best_accuracy", "best {:.1%}")):
        value = found.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            return words.format(value)
    return ""
