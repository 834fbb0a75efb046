"""Forecast of the time that the rest of a plan takes: the work of each stage times the measured pace of its kind.

Work is counted in training steps. A forward pass counts as a third of a step, whose forward pass and backward passes to
weights and to activations are three products of about one size. This prices the measurement at an epoch's end, and
evaluations until one was timed.

Before the first training of a kind runs, a few of its steps are timed: in memory, from the dense start, in streams of their
own. Only the time is kept.
"""

import itertools
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

from tombola.data import Dataset
from tombola.data.batches import steps_per_epoch
from tombola.files import written_aside
from tombola.inference import is_deterministic
from tombola.pruning.rewind import step_of
from tombola.settings import DataSettings, TrainSettings
from tombola.settings.fields import priced
from tombola.study.plan import Plan, training_of
from tombola.study.stages import Measurement, RunContext, Stage, Train, ancestors
from tombola.training.checkpoint import arithmetic

from .progress import Progress
from .store import Store, missing

Data = Callable[[DataSettings], Dataset]
Kind = tuple[str, ...]


STEPS, _SECONDS = 5, 3.0  # timed for each kind after its first step, unless the seconds end first
_ALTOGETHER = 20.0  # seconds; kinds that are left then have no pace before their own steps


def work_of(stage: Stage, data: Data) -> int:
    """Return the stage's training steps; 1 for a stage that does not train."""
    if (trained := training_of(stage)) is None:
        return 1
    per_epoch = epoch_steps(trained, data)
    stop = step_of(trained.stop, per_epoch)
    return (trained.settings.epochs * per_epoch if stop is None else stop) - (step_of(trained.start, per_epoch) or 0)


def epoch_steps(stage: Train, data: Data) -> int:
    """Return the steps of an epoch."""
    return steps_per_epoch(len(data(stage.source.settings).train[0]), stage.settings.batch_size)


class Forecast:
    """Paces of a plan's stages, and the work that is still to do.

    A stage's pace is taken from the finished stages of its kind (model, method, and the other settings that a step's cost
    depends on), else from steps that were timed for it beforehand (`guesses`), else from other trainings of the model.

    where: (device, threads) of the run; stages that were run elsewhere are then ignored.
    """

    def __init__(self, plan: Plan, store: Store, data: Data, where: tuple[str, int] | None = None):
        self._data = data
        self._spent: dict[Kind, tuple[float, float]] = {}
        self.guesses: dict[Kind, float] = {}
        """Seconds of a training step by kind, used until a whole stage was timed."""
        self._work: dict[str, float] = {}
        self._kinds: dict[str, list[Kind]] = {}
        self.todo: dict[str, Stage] = {}
        """Key -> stage that is still to run."""
        again = {stage.key for stage in missing(plan, store) if store.done(stage.key)}  # for their removed tickets
        for stage in plan.stages:
            self._work[stage.key] = self._full_work(stage)
            self._kinds[stage.key] = _kinds(stage)
            if store.done(stage.key):
                record = store.record(stage.key)
                if where is None or where == (record["run"].get("device"), record["run"].get("threads")):
                    # an interrupted training was run several times: `run` has the seconds of the last time alone
                    self._learn(stage, record["record"].get("train_seconds", record["run"]["seconds"]))
            if stage.key in again or not store.done(stage.key):
                self.todo[stage.key] = stage

    def drop(self, stage: Stage, seconds: float | None = None) -> None:
        """Count the stage as ended after `seconds`, or as one that will not be run."""
        if self.todo.pop(stage.key, None) is not None and seconds is not None:
            self._learn(stage, seconds)

    def untimed(self) -> dict[Kind, Train]:
        """Return the kinds of trainings to do of which none was timed, with an example each."""
        trainings = (stage for stage in self.todo.values() if isinstance(stage, Train))
        found = {self._kinds[stage.key][0]: stage for stage in trainings}
        return {kind: stage for kind, stage in found.items() if kind not in self._spent and kind not in self.guesses}

    def stage_left(self, progress: Progress) -> float | None:
        """Return the seconds that a running stage will still take, at its own pace if it has one, else at its kind's."""
        if progress.key not in self.todo:
            return None
        done, pace = self._own(progress)
        if pace is None:
            pace = self._pace(self._kinds[progress.key], {})
            if pace is not None and not progress.total:  # it has no steps, so its progress is the time that has passed
                done = (time.time() - progress.stage_since) / pace if pace else 0.0
        return None if pace is None else max(0.0, self._work[progress.key] - done) * pace

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
                kinds = self._kinds[progress.key]
                fresh[kinds[0]] = pace
                fresh.update((kind, pace) for kind in kinds[1:] if kind not in self._spent)
        total = sum(left.values())
        for key, stage in self.todo.items():
            if key in left:
                continue
            pace = self._pace(self._kinds[key], fresh)
            if pace is not None:
                total += self._work[key] * pace
            elif isinstance(stage, Train):
                return None
        return max(total / max(1, processes), *left.values(), 0.0)

    def _own(self, progress: Progress) -> tuple[float, float | None]:
        """Return the (work done, seconds a unit of it in this process) of a running stage."""
        stage = self.todo[progress.key]
        if (trained := training_of(stage)) is None or not progress.total:
            return 0.0, None
        per_step = self._work[progress.key] / progress.total
        if progress.steps_per_second is None:
            return progress.done * per_step, None
        measured = progress.timed_steps + progress.timed_epochs * self._passes(trained)
        return progress.done * per_step, progress.timed_seconds / measured

    def _pace(self, kinds: list[Kind], fresh: dict[Kind, float]) -> float | None:
        """Return the seconds a unit of work. fresh: paces of the running stages, by kind."""
        for kind in kinds:
            seconds, work = self._spent.get(kind, (fresh.get(kind, self.guesses.get(kind)), 1.0))
            if seconds is not None:
                return seconds / work
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
        """Return the cost of a forward pass over the held-out examples, in training steps."""
        settings = stage.settings if isinstance(stage, Train) else stage.train
        samples = 1 if is_deterministic(settings.method) else settings.samples
        split = stage.split if isinstance(stage, Train) else stage.settings.split
        held_out = self._data(stage.source.settings).held_out(split)
        return len(held_out[1]) / (3 * settings.batch_size * samples)


def _kinds(stage: Stage) -> list[Kind]:
    """Return the kinds from which a stage's pace is taken, the most alike first."""
    if isinstance(stage, Train):
        return list(_training_kinds(stage.net.identity, stage.settings))
    own: Kind
    if isinstance(stage, Measurement):
        net, train = stage.net.identity, stage.train
        own = ("random" if stage.is_random else "point", *priced(stage.settings))
    elif (trained := training_of(stage)) is not None:
        net, train, own = trained.net.identity, trained.settings, (trained.settings.method,)
    else:
        return [(stage.kind,)]
    return [(stage.kind, net, *own), *_training_kinds(net, train)]


def _training_kinds(net: str, settings: TrainSettings) -> Iterator[Kind]:
    yield (Train.kind, net, *priced(settings))
    yield (Train.kind, net, f"batch_size={settings.batch_size}", settings.method)
    yield (Train.kind, net, f"batch_size={settings.batch_size}")


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


def calibrate(forecast: Forecast, device: torch.device, data: Data, before: Guesses) -> Guesses:
    """Time steps of each kind of training that has no pace yet, and give them to the forecast.

    A kind that cannot be trained gets no pace. before: earlier guesses, which are not timed again. Return them with the
    new ones.
    """
    where, began = here(device), time.monotonic()
    guesses = Guesses(where, dict(before.seconds) if before.where == where else {})
    guesses.give(forecast, where)
    for kind, stage in forecast.untimed().items():
        if time.monotonic() - began > _ALTOGETHER:
            break
        if (seconds := step_seconds(stage, device, data)) is not None:
            guesses.seconds[kind] = forecast.guesses[kind] = seconds
    return guesses


def here(device: torch.device) -> tuple[str, int]:
    """Return the device's name and torch's threads, on which a pace depends beside the stage."""
    there = arithmetic(device)
    return there["device"], there["threads"]


def step_seconds(stage: Train, device: torch.device, data: Data) -> float | None:
    """Return the median seconds of a few steps after the first; None if the training has one step or fails."""
    marks: list[float] = []

    def on_step(done: int, total: int) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        marks.append(time.monotonic())
        if len(marks) > STEPS or (len(marks) > 1 and marks[-1] - marks[0] > _SECONDS):
            raise _Enough

    context = RunContext(device, data, on_step=on_step)
    with warnings.catch_warnings(), suppress(_Enough):
        warnings.simplefilter("ignore")  # shown when the stage runs
        try:
            start = ancestors(stage)[0].run([], context)
            assert start.ticket is not None
            stage.run([start.ticket], context)
        except (Exception, SystemExit):  # shown when the stage runs
            return None
    steps = [after - before for before, after in itertools.pairwise(marks)]
    return median(steps) if steps else None


class _Enough(BaseException):
    """End of a training that was begun only for its pace. It is no Exception, which a plug-in might catch."""
