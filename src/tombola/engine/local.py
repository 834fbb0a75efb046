"""The local engine: runs what a plan still needs, one stage after another, in this process.

Several processes, also on several machines that share the store's disk, share the work: each takes the next stage that is
ready and that nobody else is at. Nothing but the store's locks and files tells them of one another.
"""

import json
import math
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from filelock import Timeout

from tombola.data import Dataset, load_data
from tombola.errors import TombolaError
from tombola.pruning.ticket import Ticket
from tombola.settings import DataSettings
from tombola.study.plan import Plan, names_of
from tombola.study.stages import Evaluate, Outcome, RunContext, Stage, Train
from tombola.training.checkpoint import TimeUp, arithmetic
from tombola.training.memory import MemoryForecast
from tombola.training.out_of_memory import MemoryShortError, free_cached, is_out_of_memory, short_of_memory

from .progress import Progress, ProgressFile, Watcher, forget_stopped
from .store import Store, missing

_LOOK_AGAIN = 0.2  # seconds between looks where others are at all that is ready


@dataclass
class LocalEngine:
    """Runs stages on one device, reading and writing one store."""

    store: Store
    device: torch.device
    watcher: Watcher
    checkpoint_seconds: float = 60.0
    joins: bool = False
    """Whether it takes part in a run that has begun: what failed in that is not tried again."""
    ends: float = math.inf
    """By `time.time`: when it stops at the next place where nothing is lost."""
    failures: dict[str, str] = field(default_factory=dict)
    """Key of a failed stage -> sentence; empty for what only builds on one."""
    data: Callable[[DataSettings], Dataset] = lambda settings: dataset(settings)
    """Where a stage's data are taken from; by default loaded by name."""
    needs: Callable[[Stage], MemoryForecast | None] = lambda stage: None
    """What a stage was forecast to need, for the sentence that says that memory did not do."""

    def run(self, plan: Plan, after_each: Callable[[], None] = lambda: None) -> None:
        """Runs every stage that the rows need and the store lacks, but those that other processes run meanwhile.

        Returns when all have ended, here or there. A stage that fails, here or there, stops only what builds on it.
        Raises TimeUp when `ends` has come: within a training that has a checkpoint, else after the stage.
        """
        self.store.prepare()
        self._names = names_of(plan)
        waiting = {stage.key: stage for stage in missing(plan, self.store)}
        if not self.joins:
            self.store.forget_failures(waiting)
        forget_stopped(self.store.unfinished, set(waiting))
        here = arithmetic(self.device)
        progress = Progress(study=plan.name, device=here["device"], threads=here["threads"])
        with ProgressFile(self.store.unfinished, progress) as self._file:
            while waiting:
                if self._run_next(waiting):
                    after_each()
                elif waiting:
                    time.sleep(_LOOK_AGAIN)
                if waiting and time.time() >= self.ends:  # not before the first stage: each run gets somewhere
                    raise TimeUp

    def _run_next(self, waiting: dict[str, Stage]) -> bool:
        """Runs the first stage that is ready and free; False if there is none. Takes what has ended out of `waiting`."""
        for stage in list(waiting.values()):
            if self._ended(stage):
                del waiting[stage.key]
                continue
            with ExitStack() as locks:
                if not self._taken(stage, locks):
                    continue
                self._run(stage)
            del waiting[stage.key]
            return True
        return False

    def _taken(self, stage: Stage, locks: ExitStack) -> bool:
        """Whether the stage is ready and free; then its lock is held within `locks`."""
        if not all(self.store.done(parent.key) for parent in stage.parents):
            return False
        lock = self.store.lock(stage.key)
        try:
            lock.acquire(blocking=False)
        except Timeout:  # another process is at it
            return False
        if self.store.done(stage.key) or self.store.failure(stage.key)[1]:  # since the look
            lock.release()
            return False
        locks.callback(lock.release)
        return True

    def _ended(self, stage: Stage) -> bool:
        """Whether nothing is to be done for the stage: another process has finished it or failed, or a parent has failed."""
        if self.store.done(stage.key):
            self.watcher.ended(stage)
            return True
        if any(parent.key in self.failures for parent in stage.parents):
            self.failures[stage.key] = ""  # said already, by its parent
            return True
        _, said = self.store.failure(stage.key)
        if said:
            log = self.store.error_path(stage.key)
            self.failures[stage.key] = f"{self._names[stage.key]} failed in another process: {said} (details in {log})"
            self.watcher.failed(stage, self.failures[stage.key])
        return bool(said)

    def _run(self, stage: Stage) -> None:
        """Runs a stage, whose lock is held."""
        progress, name = self._file.progress, self._names[stage.key]

        def on_step(done: int, total: int) -> None:
            progress.step(done, total)
            self._file.write()
            self.watcher.stepped(stage, done, total)

        checkpoint = (
            self.store.checkpoint(stage.key, self.checkpoint_seconds, self.ends) if isinstance(stage, Train) else None
        )
        context = RunContext(self.device, self.data, checkpoint, on_step, progress.end_epoch)
        outcome: Outcome | None = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                tickets = [self._ticket(parent) for parent in stage.parents]
                progress.begin(stage.key, name)
                self._file.write(at_once=isinstance(stage, Evaluate))  # it may be long, and has no steps
                self.watcher.began(stage, progress)
                began = time.monotonic()
                outcome = stage.run(tickets, context)
            except Exception as error:
                self._failed(stage, error)
        if outcome is None:
            free_cached(self.device)  # here, where no traceback holds the stage's tensors any more
            return
        said = list(dict.fromkeys(str(w.message) for w in caught))
        for sentence in said:
            self.watcher.said(f"{name}: {sentence}")
        run = {"seconds": time.monotonic() - began, **arithmetic(self.device), "warnings": said}
        self.store.save(stage, outcome, run)
        progress.key = ""
        self.watcher.ended(stage)

    def _ticket(self, stage: Stage) -> Ticket:
        """A parent's ticket; one whose file is damaged is made anew."""
        with suppress(TombolaError):
            return self.store.ticket(stage.key)
        with self.store.lock(stage.key):
            try:
                return self.store.ticket(stage.key)  # another process has made it anew
            except TombolaError as error:
                self.watcher.said(f"{error}; running {self._names[stage.key]} again")
                self.store.discard(stage.key)
                self._run(stage)
        return self.store.ticket(stage.key)

    def _failed(self, stage: Stage, error: Exception) -> None:
        sentence = f"{self._names[stage.key]} failed: {_what(stage, error, self.needs(stage))}"
        log = self.store.error_path(stage.key)
        log.write_text("".join(traceback.format_exception(error)))
        self.failures[stage.key] = f"{sentence} (details in {log})"
        self._file.progress.key = ""
        self.watcher.failed(stage, self.failures[stage.key])


def _what(stage: Stage, error: Exception, needs: MemoryForecast | None) -> str:
    """What went wrong, in a sentence."""
    if not is_out_of_memory(error) or not isinstance(stage, Train | Evaluate):
        return f"{type(error).__name__}: {error}"
    first = error.__cause__ if isinstance(error, MemoryShortError) and error.__cause__ else error
    train, measure = (stage.settings, None) if isinstance(stage, Train) else (stage.train, stage.settings)
    return str(short_of_memory(first, train, measure, needs))


@lru_cache(maxsize=4)
def _dataset(name: str, args: str) -> Dataset:
    return load_data(name, json.loads(args))


def dataset(settings: DataSettings) -> Dataset:
    """The data set of the settings, loaded once a process."""
    return _dataset(settings.name, json.dumps(settings.args, sort_keys=True))
