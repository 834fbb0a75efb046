"""The local engine: runs what a plan still needs, one stage after another, in this process."""

import json
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import torch

from .checkpoint import arithmetic
from .data import Dataset, load_data
from .errors import TombolaError
from .memory import MemoryForecast
from .naming import names_of
from .outofmemory import MemoryShortError, free_cached, is_out_of_memory, short_of_memory
from .plan import Plan
from .progress import Progress, ProgressFile, forget_stopped
from .settings import DataSettings
from .stages import Evaluate, Stage, Surroundings, Train
from .store import Store
from .ticket import Ticket


class Watcher(Protocol):
    """Someone who is told how a run gets on."""

    def began(self, stage: Stage, progress: Progress) -> None:
        """progress: how far the stage is, kept up to date while it runs."""
        ...

    def stepped(self, stage: Stage, done: int, total: int) -> None: ...
    def ended(self, stage: Stage) -> None: ...
    def failed(self, stage: Stage, sentence: str) -> None: ...
    def said(self, sentence: str) -> None: ...


@dataclass
class Engine:
    """Runs stages on one device, reading and writing one store."""

    store: Store
    device: torch.device
    watcher: Watcher
    checkpoint_seconds: float = 60.0
    failures: dict[str, str] = field(default_factory=dict)
    """Key of a failed stage -> sentence; empty for what only builds on one."""
    needs: Callable[[Stage], MemoryForecast | None] = lambda stage: None
    """What a stage was forecast to need, for the sentence that says that memory did not do."""

    def run(self, plan: Plan, after_each: Callable[[], None] = lambda: None) -> None:
        """Runs every stage that the rows need and the store lacks. A stage that fails stops only what builds on it."""
        self.store.prepare()
        self._names = names_of(plan)
        todo = missing(plan, self.store)
        forget_stopped(self.store.unfinished, {stage.key for stage in todo})
        here = arithmetic(self.device)
        progress = Progress(study=plan.name, device=here["device"], threads=here["threads"])
        with ProgressFile(self.store.unfinished, progress) as self._file:
            for stage in todo:
                lost = [p for p in stage.parents if p.key in self.failures]
                if lost:
                    self.failures[stage.key] = ""  # said already, by its parent
                else:
                    self._run(stage)
                    if stage.key in self.failures:
                        free_cached(self.device)  # here, where no traceback holds the stage's tensors any more
                after_each()

    def _run(self, stage: Stage) -> None:
        progress = self._file.progress

        def on_step(done: int, total: int) -> None:
            progress.step(done, total)
            self._file.write()
            self.watcher.stepped(stage, done, total)

        with self.store.lock(stage.key):
            if self.store.done(stage.key):  # another process was faster
                self.watcher.ended(stage)
                return
            around = Surroundings(
                self.device,
                dataset,
                self.store.checkpoint(stage.key, self.checkpoint_seconds) if isinstance(stage, Train) else None,
                on_step,
                progress.end_epoch,
            )
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    tickets = [self._ticket(parent) for parent in stage.parents]
                    progress.begin(stage.key, self._names[stage.key])
                    self._file.write(at_once=isinstance(stage, Evaluate))  # it may be long, and has no steps
                    self.watcher.began(stage, progress)
                    began = time.monotonic()
                    outcome = stage.run(tickets, around)
                except Exception as error:
                    self._failed(stage, error)
                    return
            said = list(dict.fromkeys(str(w.message) for w in caught))
            for sentence in said:
                self.watcher.said(f"{self._names[stage.key]}: {sentence}")
            run = {"seconds": time.monotonic() - began, **arithmetic(self.device), "warnings": said}
            self.store.save(stage, outcome, run)
            progress.key = ""
        self.watcher.ended(stage)

    def _ticket(self, stage: Stage) -> Ticket:
        """A parent's ticket; one whose file is damaged is made anew."""
        try:
            return self.store.ticket(stage.key)
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
    return str(short_of_memory(first, train, measure, needs.parts if needs else None, str(needs or "")))


def missing(plan: Plan, store: Store) -> list[Stage]:
    """What has to run, parents first: rows that lack their record, and of their ancestors those that lack a ticket."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in found and not store.done(stage.key):
            for parent in stage.parents:
                visit(parent)
            found[stage.key] = stage

    for row in plan.rows:
        visit(row.stage)
    return list(found.values())


@lru_cache(maxsize=4)
def _dataset(name: str, args: str) -> Dataset:
    return load_data(name, json.loads(args))


def dataset(settings: DataSettings) -> Dataset:
    """The data set of the settings, loaded once a process."""
    return _dataset(settings.name, json.dumps(settings.args, sort_keys=True))
