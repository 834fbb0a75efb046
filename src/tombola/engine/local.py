"""The local engine, which runs a plan's missing stages one after another in this process.

Several processes, also on several machines that share the store's disk, divide the work: each takes the next stage that is
ready and that no other process runs. They coordinate by the store's locks and files alone.
"""

import json
import math
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from filelock import BaseFileLock, Timeout

from tombola.data import Dataset, load_data
from tombola.errors import TombolaError, is_out_of_memory
from tombola.pruning.ticket import Ticket
from tombola.settings import DataSettings
from tombola.study.plan import Plan, names_of
from tombola.study.stages import Evaluate, Outcome, Prune, RunContext, Stage, Train
from tombola.study.stages.train import train_stages
from tombola.training.checkpoint import Checkpoint, TimeUp, arithmetic
from tombola.training.memory import MemoryForecast
from tombola.training.out_of_memory import free_cached

from .beside import SideBySide, kind_of
from .causes import cause_of, first_line
from .locks import own_place
from .progress import Progress, ProgressFile, Watcher, forget_stopped
from .sigterm import ended_by_sigterm
from .store import Store, missing, parents_needed

if TYPE_CHECKING:
    from .together import Together
_LOOK_AGAIN = 0.2  # seconds between looks while other processes run all stages that are ready
_IDLE = 20  # times the processor's time of such a look: many processes that wait leave the cores to those that work


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
    beside: SideBySide = field(default_factory=lambda: SideBySide(1))
    """Number of trainings with `cuda_graphs` that go side by side."""
    brief: bool = False
    """Setting of its `RunContext`s."""
    together: "Together | None" = None
    """Other processes that join its trainings; the engine ends them."""
    checkpoint: Checkpoint | None = field(default=None, init=False)
    """Checkpoint of the training that runs."""

    def run(self, plan: Plan, after_each: Callable[[], None] = lambda: None) -> None:
        """Run the plan's missing stages, except the ones that other processes run meanwhile.

        Return when all have ended, in any process. A failed stage, in any process, stops only the stages that depend on
        it. Raises TimeUp after `ends`: within a training, once its checkpoint is written, else after the stage. Raises
        Terminated on SIGTERM, unless a handler is set already.
        """
        self.store.prepare()
        self.run_stages(missing(plan, self.store), names_of(plan), plan.name, after_each)

    def run_stages(
        self, stages: Iterable[Stage], names: Mapping[str, str], study: str, after_each: Callable[[], None] = lambda: None
    ) -> None:
        """Run these stages as `run` does; what they depend on is finished, or among them. names: key -> name."""
        self._names = names
        waiting = {stage.key: stage for stage in stages}
        self._again = {key for key in waiting if self.store.done(key)}
        if not self.joins:
            self.store.forget_failures(waiting)
        forget_stopped(self.store.unfinished, set(waiting))
        here = arithmetic(self.device)
        progress = Progress(study=study, device=here["device"], threads=here["threads"])
        self.checkpoint = None
        self._apart: bool | None = None  # False once a lock of another process was met, True once it has moved away
        joined = self.together or nullcontext()
        with ProgressFile(self.store.unfinished, progress) as self._file, ended_by_sigterm(self), joined:
            while waiting:
                spent = time.thread_time()
                if self._run_next(waiting):
                    after_each()
                elif waiting:
                    time.sleep(max(_LOOK_AGAIN, _IDLE * (time.thread_time() - spent)))
                if waiting and time.time() >= self.ends:  # not before the first stage, so that each run makes progress
                    raise TimeUp

    def _run_next(self, waiting: dict[str, Stage]) -> bool:
        """Run the first stage that is ready and free; return False if none is. Remove ended stages from `waiting`."""
        stages = list(waiting.values())
        if self.beside.given != 1 and any(isinstance(stage, Train) and stage.settings.cuda_graphs for stage in stages):
            # so that as many trainings as possible are ready together
            stages.sort(key=lambda stage: isinstance(stage, Train))
        for stage in stages:
            if self._ended(stage):
                del waiting[stage.key]
            elif lock := self._locked(stage):
                locks = {stage: lock}
                try:
                    locks |= self._companions(stage, waiting)
                    if len(locks) == 1 or not self._run_side_by_side(list(locks)):
                        for taken in locks:
                            self._run(taken)
                finally:
                    for taken, own in locks.items():
                        self.store.unlock(taken.key, own)
                for taken in locks:
                    del waiting[taken.key]
                return True
            elif self._apart is False:
                self._move_apart(waiting)
                return self._run_next(waiting)
        return False

    def _move_apart(self, waiting: dict[str, Stage]) -> None:
        """Begin at a place of this process's own in the list: all others would try the same locks one after another."""
        self._apart, place = True, own_place(len(waiting))
        for key in list(waiting)[:place]:
            waiting[key] = waiting.pop(key)

    def _companions(self, first: Stage, waiting: dict[str, Stage]) -> dict[Stage, BaseFileLock]:
        """Return the held locks of other ready trainings of the same pace that go beside `first`."""
        locks: dict[Stage, BaseFileLock] = {}
        if not isinstance(first, Train) or not first.settings.cuda_graphs:
            return locks
        count = self.beside.count(kind_of(first))
        for stage in waiting.values():
            if len(locks) + 1 >= count:
                break
            alike = stage is not first and isinstance(stage, Train) and stage.pace == first.pace
            if alike and (lock := self._locked(stage)):
                locks[stage] = lock
        return locks

    def _run_side_by_side(self, stages: list[Stage]) -> bool:
        """Run trainings whose locks are held; return False where one has failed, so that each is tried alone."""
        trains = [stage for stage in stages if isinstance(stage, Train)]
        progress, names = self._file.progress, [self._names[stage.key] for stage in trains]

        def on_step(done: int, total: int) -> None:
            if time.time() >= self.ends:  # there is no checkpoint of several, so they start anew the next time
                raise TimeUp
            progress.step(done, total)
            self._file.write()
            self.watcher.stepped(trains[0], done, total)

        contexts = [RunContext(self.device, self.data, brief=self.brief) for _ in trains]
        contexts[0] = replace(contexts[0], on_step=on_step, on_epoch=progress.end_epoch)
        progress.begin(trains[0].key, f"{names[0]}, and {len(trains) - 1} side by side")
        self._file.write()
        self.watcher.began(trains[0], progress)
        began = time.monotonic()
        try:
            tickets = [self._ticket(stage.parents[0]) for stage in trains]
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                outcomes = train_stages(trains, tickets, contexts)
        except (Exception, SystemExit) as error:
            self.watcher.said(f"{names[0]} and {len(trains) - 1} beside it run one by one now ({first_line(error)})")
            if is_out_of_memory(error) or isinstance(error, TombolaError):  # as of a net with dropout: no diverged training
                self.beside.were_too_many(kind_of(trains[0]), len(trains))
            free_cached(self.device)
            return False
        seconds = (time.monotonic() - began) / len(trains)
        self.beside.took(kind_of(trains[0]), len(trains), seconds)
        run = {"seconds": seconds, **arithmetic(self.device), "warnings": self._said(names[0], caught)}
        for stage, outcome in zip(trains, outcomes, strict=True):
            self.store.save(stage, outcome, run)
            self.watcher.ended(stage)
        progress.key = ""
        return True

    def _locked(self, stage: Stage) -> BaseFileLock | None:
        """Return the held lock of a stage that is ready and free, else None."""
        if not all(self._done(parent) for parent in stage.parents):
            return None
        lock = self.store.lock(stage.key)
        try:
            lock.acquire(blocking=False)
        except Timeout:  # another process runs it
            self._apart = bool(self._apart)
            return None
        # looked at again under the lock: another process may have ended the stage since `_ended`
        if self._done(stage) or self.store.failure(stage.key)[1]:
            self.store.unlock(stage.key, lock)
            return None
        return lock

    def _ended(self, stage: Stage) -> bool:
        """Return whether the stage need not run: another process has finished it or failed, or a parent has failed."""
        if self._done(stage):
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

    def _done(self, stage: Stage) -> bool:
        """Return whether the stage has ended: for one that runs again for its removed ticket, with that ticket."""
        return self.store.done(stage.key) and (stage.key not in self._again or self.store.has_ticket(stage.key))

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
        context = RunContext(self.device, self.data, checkpoint, on_step, progress.end_epoch, brief=self.brief)
        outcome: Outcome | None = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                tickets = [self._ticket(parent) for parent in parents_needed(stage, self.store)]
                self.checkpoint = checkpoint  # only now: a parent that was made anew had another
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
        run = {"seconds": time.monotonic() - began, **arithmetic(self.device), "warnings": self._said(name, caught)}
        self.store.save(stage, outcome, run)
        progress.key = ""
        self.watcher.ended(stage)

    def _said(self, name: str, caught: list[warnings.WarningMessage]) -> list[str]:
        """Tell the watcher what was warned of, each once; return it."""
        said = list(dict.fromkeys(str(w.message) for w in caught))
        for sentence in said:
            self.watcher.said(f"{name}: {sentence}")
        return said

    def _outcome(self, stage: Stage, tickets: list[Ticket], context: RunContext) -> Outcome:
        """Run the stage, a pruning from its kept mask. A training whose checkpoint does not fit starts anew without it."""
        if isinstance(stage, Prune) and self.store.has_mask(stage.key):
            return stage.of_mask(*self.store.mask(stage.key), *tickets)
        path = context.checkpoint.path if context.checkpoint else None
        resumes = path is not None and path.is_file()
        try:
            return self._made(stage, tickets, context)
        except Exception as error:
            # once a step was made, and where memory does not suffice, the checkpoint is not the cause
            if path is None or not resumes or self._file.progress.total or is_out_of_memory(error):
                raise
            self.watcher.said(f"{self._names[stage.key]} starts anew: its checkpoint does not fit ({error})")
            path.unlink()
        return self._made(stage, tickets, context)

    def _made(self, stage: Stage, tickets: list[Ticket], context: RunContext) -> Outcome:
        if self.together is None or not isinstance(stage, Train):
            return stage.run(tickets, context)
        return self.together.train(stage.key, lambda fabric: stage.run(tickets, replace(context, fabric=fabric)))

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
            self.store.remove_ticket(stage.key)
            self._run(stage)
        finally:
            self.store.unlock(stage.key, lock)
        return self.store.ticket(stage.key)

    def _failed(self, stage: Stage, error: Exception | SystemExit) -> None:
        sentence = f"{self._names[stage.key]} failed: {cause_of(stage, error, self.needs(stage))}"
        self.store.fail(stage.key, "".join(traceback.format_exception(error)))
        self.failures[stage.key] = f"{sentence} (details in {self.store.error_path(stage.key)})"
        self._file.progress.key = ""
        self.watcher.failed(stage, self.failures[stage.key])


@lru_cache(maxsize=4)
def _dataset(name: str, args: str) -> Dataset:
    return load_data(name, json.loads(args))


def dataset(settings: DataSettings) -> Dataset:
    """Return the data set of the settings, loaded once a process."""
    return _dataset(settings.name, json.dumps(settings.args, sort_keys=True))
