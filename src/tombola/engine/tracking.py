"""Sender of finished stages to trackers: each once, read from the store, whoever has run it.

The first process alone sends, so that one way serves processes, Ray and SLURM. Each tracker has a thread: one that is slow
or down holds up neither the run nor the others.
"""

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tombola import plugins

from .outline import Outline
from .store import Store
from .trackers import TRACKERS, TrackedRun, Tracker

_LOOK_EVERY = 2.0  # seconds between looks at the store
_PATIENCE = 30.0  # seconds that a tracker is waited for at the end without having taken a stage
SENT = "trackers.log"
"""File of a study's folder with a line, tracker and key, for each stage that was sent."""


def makers_of(names: Sequence[str]) -> dict[str, Callable[[Path], Tracker]]:
    """Return trackers by name or import path, each once. Raises TombolaError for an unknown one."""
    return {name: plugins.resolve(name, TRACKERS, "tracker") for name in names}


class Tracking:
    """Sender of a study's finished stages to trackers."""

    def __init__(self, names: Sequence[str], outline: Outline, store: Store, folder: Path, say: Callable[[str], None]):
        self._study, self._store = outline.name, store
        self._names = {stage.key: stage.name for stage in outline.stages}
        self._senders = [_Sender(name, make, folder, say) for name, make in makers_of(names).items()]
        self._seen: set[str] = set()
        self._looked = -math.inf

    def look(self, at_once: bool = False) -> None:
        """Hand on the stages that have finished since the last look, if one is due."""
        if not self._senders or (time.monotonic() - self._looked < _LOOK_EVERY and not at_once):
            return
        new = self._store.keys() & self._names.keys() - self._seen
        self._store.fetch(new)
        for key, name in self._names.items():  # parents first
            if key in new and self._store.done(key):
                self._seen.add(key)
                run = run_of(self._study, name, self._store.record(key))
                for sender in self._senders if run.history or run.final else []:
                    sender.put(run)
        self._looked = time.monotonic()

    def close(self) -> None:
        """Send the rest; give up a tracker that takes nothing for half a minute."""
        self.look(at_once=True)
        for sender in self._senders:
            sender.close()


class _Sender:
    """Thread of one tracker, with its queue."""

    def __init__(self, name: str, make: Callable[[Path], Tracker], folder: Path, say: Callable[[str], None]):
        self._name, self._make, self._folder, self._say = name, make, folder, say
        self._log = folder / SENT
        lines = self._log.read_text().splitlines() if self._log.is_file() else []
        self._sent = {line.partition(" ")[2] for line in lines if line.startswith(f"{name} ")}
        self._queue: queue.SimpleQueue[TrackedRun | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._down = False

    def put(self, run: TrackedRun) -> None:
        if run.key in self._sent or self._down:
            return
        if not self._thread.ident:
            self._thread.start()
        self._queue.put(run)

    def close(self) -> None:
        if not self._thread.ident:
            return
        self._queue.put(None)
        before = -1
        while self._thread.is_alive() and len(self._sent) > before:
            before = len(self._sent)
            self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            self._say(f"tracker {self._name} takes nothing; the same command sends it the rest")

    def _work(self) -> None:
        try:
            tracker = self._make(self._folder)
            while (run := self._queue.get()) is not None:
                tracker.send(run)
                self._sent.add(run.key)
                with self._log.open("a") as log:
                    log.write(f"{self._name} {run.key}\n")
        except (Exception, SystemExit) as error:
            self._down = True
            lacks = isinstance(error, ImportError) and self._name in TRACKERS
            mend = f"pip install 'tombola[{self._name}]'" if lacks else "check it"
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            self._say(f"tracker {self._name} is left out ({why}); {mend}, and the same command sends it what it lacks")


def run_of(study: str, name: str, record: Mapping[str, Any]) -> TrackedRun:
    """Return a finished stage as trackers show it. record: the store's."""
    settings = {"kind": record.get("kind", ""), **dict(_flat(record.get("settings", {})))}
    numbers = {**record["record"], "seconds": record["run"].get("seconds")} if record["record"] else {}
    final = {part: float(value) for part, value in numbers.items() if _finite(value)}
    history = [{part: value for part, value in row.items() if _finite(value)} for row in record.get("history", [])]
    return TrackedRun(study, name, str(record.get("key", "")), settings, history, final)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
