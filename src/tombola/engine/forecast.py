"""How long the rest of a plan will take: the work of each stage times the measured pace of its kind.

Work is counted in training steps. A forward pass counts as a third of a step (forward, and backward to weights and to
activations, are three products of about one size), which prices the measurement at an epoch's end, and evaluations until
one was timed.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tombola.data import Dataset
from tombola.data.batches import steps_per_epoch
from tombola.inference import is_deterministic
from tombola.pruning.rewind import step_of
from tombola.settings import DataSettings, TrainSettings
from tombola.settings.fields import priced
from tombola.study.plan import Plan, training_of
from tombola.study.stages import Measurement, Stage, Train

from .progress import Progress
from .store import Store

Data = Callable[[DataSettings], Dataset]
Kind = tuple[str, ...]


def work_of(stage: Stage, data: Data) -> int:
    """Training steps; 1 for a stage that does not train."""
    if (trained := training_of(stage)) is None:
        return 1
    per_epoch = epoch_steps(trained, data)
    stop = step_of(trained.stop, per_epoch)
    return (trained.settings.epochs * per_epoch if stop is None else stop) - (step_of(trained.start, per_epoch) or 0)


def epoch_steps(stage: Train, data: Data) -> int:
    """Steps of an epoch."""
    return steps_per_epoch(len(data(stage.source.settings).train[0]), stage.settings.batch_size)


class Forecast:
    """Paces of a plan's stages, and the work that is still to do.

    A stage's pace is taken from the finished stages of its kind (model, method, and what else a step's cost depends on),
    else from steps that were timed for it beforehand (`guess`), else from other trainings of the model.

    where: (device, threads) of the run; stages that were run elsewhere then count for nothing.
    """

    def __init__(self, plan: Plan, store: Store, data: Data, where: tuple[str, int] | None = None):
        self._data = data
        self._spent: dict[Kind, tuple[float, float]] = {}
        self._guesses: dict[Kind, float] = {}
        self._work: dict[str, float] = {}
        self._kinds: dict[str, list[Kind]] = {}
        self._todo: dict[str, Stage] = {}
        self._rest: defaultdict[tuple[Kind, ...], float] = defaultdict(float)
        for stage in plan.stages:
            self._work[stage.key] = self._full_work(stage)
            self._kinds[stage.key] = _kinds(stage)
            if store.done(stage.key):
                record = store.record(stage.key)
                if where is None or where == (record["run"].get("device"), record["run"].get("threads")):
                    self._learn(stage, _seconds(record))
            else:
                self._todo[stage.key] = stage
                self._rest[tuple(self._kinds[stage.key])] += self._work[stage.key]

    def drop(self, stage: Stage, seconds: float | None = None) -> None:
        """The stage has ended after `seconds`, or will not be run."""
        if self._todo.pop(stage.key, None) is not None:
            self._rest[tuple(self._kinds[stage.key])] -= self._work[stage.key]
        if seconds is not None:
            self._learn(stage, seconds)

    def guess(self, kind: Kind, seconds: float) -> None:
        """Training steps of that kind take so long, until a whole stage was timed."""
        self._guesses[kind] = seconds

    def untimed(self) -> dict[Kind, Train]:
        """The kinds of trainings to do of which none was timed, with an example each."""
        trainings = (stage for stage in self._todo.values() if isinstance(stage, Train))
        found = {self._kinds[stage.key][0]: stage for stage in trainings}
        return {kind: stage for kind, stage in found.items() if kind not in self._spent and kind not in self._guesses}

    def stage_left(self, progress: Progress) -> float | None:
        """Seconds that a running stage will still take: at its own pace as soon as there is one, else at its kind's."""
        if progress.key not in self._todo:
            return None
        done, pace = self._own(progress)
        if pace is None:
            pace = self._pace(self._kinds[progress.key], {})
            if pace is not None and not progress.total:  # no steps to see it by: by the clock
                done = (time.time() - progress.stage_since) / pace if pace else 0.0
        return None if pace is None else max(0.0, self._work[progress.key] - done) * pace

    def left(self, running: Iterable[Progress] = (), processes: int = 1) -> float | None:
        """Seconds for all that is to do; None where a training has no pace yet.

        It takes the work to divide evenly over the processes, but no sooner than each running stage ends.
        """
        known = [progress for progress in running if progress.key in self._todo]
        fresh: dict[Kind, float] = {}
        rest, total, longest = self._rest.copy(), 0.0, 0.0
        for progress in known:
            kinds = self._kinds[progress.key]
            _, pace = self._own(progress)
            if pace is not None:
                fresh[kinds[0]] = pace
                fresh.update((kind, pace) for kind in kinds[1:] if kind not in self._spent)
            own_left = self.stage_left(progress) or 0.0
            total, longest = total + own_left, max(longest, own_left)
            if pace is not None or self._pace(kinds, {}) is not None:
                rest[tuple(kinds)] -= self._work[progress.key]
        for those, work in rest.items():
            pace = self._pace(list(those), fresh)
            if pace is not None:
                total += max(0.0, work) * pace
            elif work > 1e-6 and those[0][0] == Train.kind:
                return None
        return max(total / max(1, processes), longest)

    def _own(self, progress: Progress) -> tuple[float, float | None]:
        """(work done, seconds a unit of it in this process) of a running stage."""
        stage = self._todo[progress.key]
        if (trained := training_of(stage)) is None or not progress.total:
            return 0.0, None
        per_step = self._work[progress.key] / progress.total
        if progress.steps_per_second is None:
            return progress.done * per_step, None
        measured = progress.timed_steps + progress.timed_epochs * self._passes(trained)
        return progress.done * per_step, progress.timed_seconds / measured

    def _pace(self, kinds: list[Kind], fresh: dict[Kind, float]) -> float | None:
        """Seconds a unit of work. fresh: paces of what runs now, by kind."""
        for kind in kinds:
            if kind in self._spent:
                seconds, work = self._spent[kind]
                return seconds / work
            if kind in fresh:
                return fresh[kind]
            if kind in self._guesses:
                return self._guesses[kind]
        return None

    def _learn(self, stage: Stage, seconds: float) -> None:
        own = self._kinds[stage.key]
        for kind in own if isinstance(stage, Train) else own[:1]:
            before, work = self._spent.get(kind, (0.0, 0.0))
            if self._work[stage.key]:
                self._spent[kind] = (before + seconds, work + self._work[stage.key])

    def _full_work(self, stage: Stage) -> float:
        if (trained := training_of(stage)) is not None:
            steps = work_of(stage, self._data)
            return steps + steps / epoch_steps(trained, self._data) * self._passes(trained)
        return stage.work(self._passes(stage)) if isinstance(stage, Measurement) else 1.0

    def _passes(self, stage: Train | Measurement) -> float:
        """One forward pass over the held-out examples, in training steps."""
        settings = stage.settings if isinstance(stage, Train) else stage.train
        samples = 1 if is_deterministic(settings.method) else settings.samples
        split = stage.split if isinstance(stage, Train) else stage.settings.split
        held_out = self._data(stage.source.settings).held_out(split)
        return len(held_out[1]) / (3 * settings.batch_size * samples)


def _kinds(stage: Stage) -> list[Kind]:
    """What a stage's pace is taken from: the most alike first."""
    if isinstance(stage, Train):
        return list(_training_kinds(stage.net.words, stage.settings))
    if isinstance(stage, Measurement):
        own = (stage.kind, stage.net.words, "random" if stage.is_random else "point", *priced(stage.settings))
        return [own, *_training_kinds(stage.net.words, stage.train)]
    if (trained := training_of(stage)) is not None:
        return [
            (stage.kind, trained.net.words, trained.settings.method),
            *_training_kinds(trained.net.words, trained.settings),
        ]
    return [(stage.kind,)]


def _training_kinds(words: str, settings: TrainSettings) -> Iterator[Kind]:
    yield (Train.kind, words, *priced(settings))
    yield (Train.kind, words, f"batch_size={settings.batch_size}", settings.method)
    yield (Train.kind, words, f"batch_size={settings.batch_size}")


def _seconds(record: dict[str, Any]) -> float:
    """A training's over all sittings, where it was killed between; any other stage's of its one."""
    return record["record"].get("train_seconds", record["run"]["seconds"])
