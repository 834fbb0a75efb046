"""The local engine, which runs a plan's missing stages one after another in this process.

Several processes, also on several machines that share the store's disk, divide the work: each takes the next stage that is
ready and that no other process runs. They coordinate by the store's locks and files alone.
"""

import json
import math
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from filelock import BaseFileLock, Timeout

from tombola.data import Dataset, load_data
from tombola.errors import TombolaError
from tombola.pruning.ticket import Ticket
from tombola.settings import DataSettings
from tombola.study.plan import Plan, names_of
from tombola.study.stages import Evaluate, Outcome, RunContext, Stage, Train
from tombola.training.checkpoint import Checkpoint, TimeUp, arithmetic
from tombola.training.memory import MemoryForecast
from tombola.training.out_of_memory import MemoryShortError, free_cached, is_out_of_memory, short_of_memory

from .progress import Progress, ProgressFile, Watcher, forget_stopped
from .store import Store, missing

_GRACE = 8  # seconds after SIGTERM for a step and its checkpoint: clusters mostly kill ten seconds or more after it
_LOOK_AGAIN = 0.2  # seconds between looks while other processes run all stages that are ready


class Terminated(KeyboardInterrupt):
    """End of a run by SIGTERM, after a checkpoint if a training was running."""


@dataclass
class LocalEngine:
    """Engine that runs stages on one device and reads and writes one store."""

    store: Store
    device: torch.device
    watcher: Watcher
    checkpoint_seconds: float = 60.0
    joins: bool = False
    """True for a worker of a run that has begun: it does not retry the run's failed stages."""
    ends: float = math.inf
    """Time, by `time.time`, after which it stops at the next checkpoint or stage's end."""
    failures: dict[str, str] = field(default_factory=dict)
    """Key of a failed stage -> sentence; empty for a stage that only depends on a failed one."""
    data: Callable[[DataSettings], Dataset] = lambda settings: dataset(settings)
    """Loader of a stage's data; by default by name."""
    needs: Callable[[Stage], MemoryForecast | None] = lambda stage: None
    """Memory forecast of a stage, for the sentence about an out-of-memory error."""

    def run(self, plan: Plan, after_each: Callable[[], None] = lambda: None) -> None:
        """Run the plan's missing stages, except the ones that other processes run meanwhile.

        Return when all have ended, in any process. A failed stage, in any process, stops only the stages that depend on
        it. Raises TimeUp after `ends`: within a training, once its checkpoint is written, else after the stage. Raises
        Terminated on SIGTERM, unless a handler is set already.
        """
        self.store.prepare()
        self._names = names_of(plan)
        waiting = {stage.key: stage for stage in missing(plan, self.store)}
        if not self.joins:
            self.store.forget_failures(waiting)
        forget_stopped(self.store.unfinished, set(waiting))
        here = arithmetic(self.device)
        progress = Progress(study=plan.name, device=here["device"], threads=here["threads"])
        self._checkpoint: Checkpoint | None = None
        with ProgressFile(self.store.unfinished, progress) as self._file, self._ended_by_sigterm():
            while waiting:
                if self._run_next(waiting):
                    after_each()
                elif waiting:
                    time.sleep(_LOOK_AGAIN)
                if waiting and time.time() >= self.ends:  # not before the first stage, so that each run makes progress
                    raise TimeUp

    @contextmanager
    def _ended_by_sigterm(self) -> Iterator[None]:
        """Raise Terminated on SIGTERM: in a training at its next checkpoint, which is then due, else at once."""
        main = threading.current_thread() is threading.main_thread()  # only the main thread may set a handler
        if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            yield
            return

        def end(number: int, frame: object) -> None:
            if self._checkpoint is None or number == signal.SIGALRM:
                raise Terminated
            self.ends = self._checkpoint.ends = 0.0  # the training saves after its step and raises TimeUp
            signal.alarm(_GRACE)  # unless the step takes too long

        before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGALRM)}
        try:
            yield
        except TimeUp:
            if self.ends:
                raise
        finally:
            signal.alarm(0)
            for number, handler in before.items():
                signal.signal(number, handler)
        if not self.ends:
            raise Terminated

    def _run_next(self, waiting: dict[str, Stage]) -> bool:
        """Run the first stage that is ready and free; return False if none is. Remove ended stages from `waiting`."""
        for stage in list(waiting.values()):
            if self._ended(stage):
                del waiting[stage.key]
            elif lock := self._locked(stage):
                try:
                    self._run(stage)
                finally:
                    self.store.unlock(stage.key, lock)
                del waiting[stage.key]
                return True
        return False

    def _locked(self, stage: Stage) -> BaseFileLock | None:
        """Return the held lock of a stage that is ready and free, else None."""
        if not all(self.store.done(parent.key) for parent in stage.parents):
            return None
        lock = self.store.lock(stage.key)
        try:
            lock.acquire(blocking=False)
        except Timeout:  # another process runs it
            return None
        # looked at again under the lock: another process may have ended the stage since `_ended`
        if self.store.done(stage.key) or self.store.failure(stage.key)[1]:
            self.store.unlock(stage.key, lock)
            return None
        return lock

    def _ended(self, stage: Stage) -> bool:
        """Return whether the stage need not run: another process has finished it or failed, or a parent has failed."""
        if self.store.done(stage.key):
            self.watcher.ended(stage)
            return True
        if any(parent.key in self.failures for parent in stage.parents):
            self.failures[stage.key] = ""  # its parent has the sentence
            return True
        _, said = self.store.failure(stage.key)
        if said:
            log = self.store.error_path(stage.key)
            self.failures[stage.key] = f"{self._names[stage.key]} failed in another process: {said} (details in {log})"
            self.watcher.failed(stage, self.failures[stage.key])
        return bool(said)

    def _run(self, stage: Stage) -> None:
        """Run a stage whose lock is held."""
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
                self._checkpoint = checkpoint  # only now: a parent that was made anew had another
                progress.begin(stage.key, name)
                self._file.write(at_once=isinstance(stage, Evaluate))  # which may take long and has no steps to write at
                self.watcher.began(stage, progress)
                began = time.monotonic()
                outcome = self._outcome(stage, tickets, context)
            except (Exception, SystemExit) as error:  # a plug-in's sys.exit(0) is no success of the run
                self._failed(stage, error)
        if outcome is None:
            free_cached(self.device)  # only now: until here the error's traceback held the stage's tensors
            return
        said = list(dict.fromkeys(str(w.message) for w in caught))
        for sentence in said:
            self.watcher.said(f"{name}: {sentence}")
        run = {"seconds": time.monotonic() - began, **arithmetic(self.device), "warnings": said}
        self.store.save(stage, outcome, run)
        progress.key = ""
        self.watcher.ended(stage)

    def _outcome(self, stage: Stage, tickets: list[Ticket], context: RunContext) -> Outcome:
        """Run the stage. A training whose checkpoint does not fit starts anew without it."""
        path = context.checkpoint.path if context.checkpoint else None
        resumes = path is not None and path.is_file()
        try:
            return stage.run(tickets, context)
        except Exception as error:
            # once a step was made, and where memory does not suffice, the checkpoint is not the cause
            if path is None or not resumes or self._file.progress.total or is_out_of_memory(error):
                raise
            self.watcher.said(f"{self._names[stage.key]} starts anew: its checkpoint does not fit ({error})")
            path.unlink()
        return stage.run(tickets, context)

    def _ticket(self, stage: Stage) -> Ticket:
        """Return a parent's ticket. One whose file is damaged is made anew."""
        with suppress(TombolaError):
            return self.store.ticket(stage.key)
        lock = self.store.lock(stage.key)
        lock.acquire()
        try:
            return self.store.ticket(stage.key)  # if another process has made it anew
        except TombolaError as error:
            self.watcher.said(f"{error}; running {self._names[stage.key]} again")
            self.store.discard(stage.key)
            self._run(stage)
        finally:
            self.store.unlock(stage.key, lock)
        return self.store.ticket(stage.key)

    def _failed(self, stage: Stage, error: Exception | SystemExit) -> None:
        sentence = f"{self._names[stage.key]} failed: {_cause(stage, error, self.needs(stage))}"
        log = self.store.error_path(stage.key)
        log.write_text("".join(traceback.format_exception(error)))
        self.failures[stage.key] = f"{sentence} (details in {log})"
        self._file.progress.key = ""
        self.watcher.failed(stage, self.failures[stage.key])


def _cause(stage: Stage, error: Exception | SystemExit, needs: MemoryForecast | None) -> str:
    """Return a sentence about the error; for an out-of-memory error, what to lower."""
    if not is_out_of_memory(error) or not isinstance(stage, Train | Evaluate):
        return f"{type(error).__name__}: {error}"
    first = error.__cause__ if isinstance(error, MemoryShortError) and error.__cause__ else error
    train, measure = (stage.settings, None) if isinstance(stage, Train) else (stage.train, stage.settings)
    return str(short_of_memory(first, train, measure, needs))


@lru_cache(maxsize=4)
def _dataset(name: str, args: str) -> Dataset:
    return load_data(name, json.loads(args))


def dataset(settings: DataSettings) -> Dataset:
    """Return the data set of the settings, loaded once a process."""
    return _dataset(settings.name, json.dumps(settings.args, sort_keys=True))
