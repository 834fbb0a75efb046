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
from .plan import Plan
from .settings import DataSettings
from .stages import Stage, Surroundings, Train
from .store import Store
from .ticket import Ticket


class Watcher(Protocol):
    """Someone who is told how a run gets on."""

    def began(self, stage: Stage) -> None: ...
    def stepped(self, stage: Stage, done: int, total: int) -> None: ...
    def ended(self, stage: Stage) -> None: ...
    def said(self, sentence: str) -> None: ...


@dataclass
class Engine:
    """Runs stages on one device, reading and writing one store."""

    store: Store
    device: torch.device
    watcher: Watcher
    checkpoint_seconds: float = 60.0
    failures: dict[str, str] = field(default_factory=dict)
    """Key of a failed stage -> sentence."""

    def run(self, plan: Plan, after_each: Callable[[], None] = lambda: None) -> None:
        """Runs every stage that the rows need and the store lacks. A stage that fails stops only what builds on it."""
        self.store.prepare()
        for stage in missing(plan, self.store):
            lost = [p for p in stage.parents if p.key in self.failures]
            if lost:
                self.failures[stage.key] = ""  # said already, by its parent
            else:
                self._run(stage)
            after_each()

    def _run(self, stage: Stage) -> None:
        with self.store.lock(stage.key):
            if self.store.done(stage.key):  # another process was faster
                self.watcher.ended(stage)
                return
            self.watcher.began(stage)
            around = Surroundings(
                self.device,
                dataset,
                self.store.checkpoint(stage.key, self.checkpoint_seconds) if isinstance(stage, Train) else None,
                lambda done, total: self.watcher.stepped(stage, done, total),
            )
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    tickets = [self._ticket(parent) for parent in stage.parents]
                    began = time.monotonic()
                    outcome = stage.run(tickets, around)
                except Exception as error:
                    self._failed(stage, error)
                    return
            said = list(dict.fromkeys(str(w.message) for w in caught))
            for sentence in said:
                self.watcher.said(f"{describe(stage)}: {sentence}")
            run = {"seconds": time.monotonic() - began, **arithmetic(self.device), "warnings": said}
            self.store.save(stage, outcome, run)
        self.watcher.ended(stage)

    def _ticket(self, stage: Stage) -> Ticket:
        """A parent's ticket; one whose file is damaged is made anew."""
        try:
            return self.store.ticket(stage.key)
        except TombolaError as error:
            self.watcher.said(f"{error}; running {describe(stage)} again")
            self.store.discard(stage.key)
            self._run(stage)
            return self.store.ticket(stage.key)

    def _failed(self, stage: Stage, error: Exception) -> None:
        sentence = f"{describe(stage)} failed: {type(error).__name__}: {error}"
        log = self.store.root / "unfinished" / f"{stage.key}.error"
        log.write_text("".join(traceback.format_exception(error)))
        self.failures[stage.key] = f"{sentence} (details in {log})"
        self.watcher.said(self.failures[stage.key])


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


def describe(stage: Stage) -> str:
    """A stage in a few words."""
    seed = getattr(stage, "seed", None)
    what = f"{stage.kind} {stage.settings.method}" if isinstance(stage, Train) else stage.kind
    return f"{what} {stage.key[:8]}" + (f" (seed {seed})" if seed is not None else "")


@lru_cache(maxsize=4)
def _dataset(name: str, args: str) -> Dataset:
    return load_data(name, json.loads(args))


def dataset(settings: DataSettings) -> Dataset:
    """The data set of the settings, loaded once a process."""
    return _dataset(settings.name, json.dumps(settings.args, sort_keys=True))
