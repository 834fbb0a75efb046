"""Progress of running processes: small files in the store that `tombola status` reads from another terminal.

Each run has a file, `unfinished/HOST.PID.N.progress`, and beside it a lock that is released when its process dies. None of
it enters a record or a key.
"""

import itertools
import json
import math
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from filelock import FileLock, Timeout

from tombola.files import written_aside

if TYPE_CHECKING:
    from tombola.study.stages import Stage

_numbers = itertools.count()  # of the runs of this process

_WRITE_EVERY = 2.0  # seconds: a write takes about half a millisecond
_SOON = 0.25  # seconds after the last write, when another stage has begun
_SILENT_AFTER = 60.0  # seconds without a write after which a process on another machine may have stopped


@dataclass
class Progress:
    """State of a process. Times are in seconds since 1970."""

    key: str = ""
    """Key of the running stage; empty between two stages."""
    name: str = ""
    done: int = 0
    """Steps of the running training; 0 of 0 for a stage without steps."""
    total: int = 0
    timed_steps: int = 0
    """Steps that took `timed_seconds`: all of this process but its first, which pays for preparations."""
    timed_seconds: float = 0.0
    timed_epochs: int = 0
    """Epochs that ended in that time, each with its measurement on the held-out examples."""
    loss: float | None = None
    """Loss of the last finished epoch, nats per example."""
    stage_since: float = 0.0
    since: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)
    study: str = ""
    device: str = ""
    threads: int = 0

    def __post_init__(self) -> None:
        self._first: tuple[int, float] | None = None
        """(steps done, time) at the first step of this stage in this process."""

    def begin(self, key: str, name: str) -> None:
        """Start the next stage."""
        self.key, self.name, self.stage_since = key, name, time.time()
        self.done = self.total = 0
        self.loss = None
        self.timed_steps, self.timed_seconds, self.timed_epochs = 0, 0.0, 0
        self._first = None

    def step(self, done: int, total: int) -> None:
        """Count a step of the running training."""
        now = time.monotonic()
        self.done, self.total = done, total
        if self._first is None:
            self._first = (done, now)
        self.timed_steps, self.timed_seconds = done - self._first[0], now - self._first[1]

    def end_epoch(self, row: dict[str, float]) -> None:
        """Count an epoch. row: its row of the history."""
        self.loss = row["loss"]
        self.timed_epochs += 1

    @property
    def of_this_process(self) -> bool:
        """Return whether the calling process wrote it."""
        return (self.pid, self.host) == (os.getpid(), socket.gethostname())

    @property
    def steps_per_second(self) -> float | None:
        """Return the pace; None until a second or twenty steps were timed."""
        if self.timed_seconds <= 0 or (self.timed_seconds < 1 and self.timed_steps < 20) or not self.timed_steps:
            return None
        return self.timed_steps / self.timed_seconds


class ProgressFile:
    """Writer of a process's progress into `folder`, within a `with`; at most every two seconds unless told `at_once`."""

    def __init__(self, folder: Path, progress: Progress):
        self.progress = progress
        self._path = folder / f"{progress.host}.{progress.pid}.{next(_numbers)}.progress"
        self._lock = FileLock(_lock_of(self._path))
        self._wrote_at, self._last_key = -math.inf, ""

    def __enter__(self) -> "ProgressFile":
        self._lock.acquire()
        self.write(at_once=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.progress.key and kind is not None:  # interrupted in a stage: `status` shows it until the stage is resumed
            self.write(at_once=True)
        else:
            self._path.unlink(missing_ok=True)
        self._lock.release()
        _lock_of(self._path).unlink(missing_ok=True)

    def write(self, at_once: bool = False) -> None:
        """Write the file, if it is due."""
        now = time.monotonic()
        wait = _WRITE_EVERY if self.progress.key == self._last_key else _SOON
        if not at_once and now - self._wrote_at < wait:
            return
        self._wrote_at, self._last_key = now, self.progress.key
        self.progress.updated = time.time()
        text = json.dumps({f.name: getattr(self.progress, f.name) for f in fields(Progress)})
        # on a full disk the run goes on: a stage's outcome matters, its progress does not
        with suppress(OSError), written_aside(self._path, self._path.with_suffix(".part")) as aside:
            aside.write_text(text)


@dataclass(frozen=True)
class Seen:
    """Progress that was read from a file, and whether its process still runs."""

    progress: Progress
    state: str
    """running, stopped, or silent: on another machine, without a write for a minute."""
    path: Path


def seen(folder: Path) -> list[Seen]:
    """Return the progress files, the oldest process first. Damaged files are passed over."""
    read = [(path, _read(path)) for path in sorted(folder.glob("*.progress"))]
    found = [Seen(progress, _state(path, progress), path) for path, progress in read if progress is not None]
    return sorted(found, key=lambda one: one.progress.since)


def forget_stopped(folder: Path, keys: set[str]) -> None:
    """Remove the files of processes that stopped in one of these stages or between two."""
    for one in seen(folder):
        if one.state == "stopped" and (not one.progress.key or one.progress.key in keys):
            for path in (one.path, one.path.with_suffix(".part"), _lock_of(one.path)):
                path.unlink(missing_ok=True)


def _read(path: Path) -> Progress | None:
    number = (int, float)
    wanted: dict[Any, Any] = {int: int, float: number, str: str, float | None: (*number, type(None))}
    kinds = {f.name: wanted[f.type] for f in fields(Progress)}
    try:
        given = json.loads(path.read_text())
        if given.keys() == kinds.keys() and all(isinstance(given[name], kind) for name, kind in kinds.items()):
            return Progress(**given)
    except (OSError, ValueError, AttributeError):
        pass
    return None


def _state(path: Path, progress: Progress) -> str:
    if progress.host != socket.gethostname():  # locks of another machine may not be visible here
        return "running" if time.time() - progress.updated < _SILENT_AFTER else "silent"
    lock = _lock_of(path)
    if not lock.exists():
        return "stopped"
    try:
        with FileLock(lock, timeout=0):
            return "stopped"
    except Timeout:
        return "running"
    except OSError:  # a lock file of another user
        return "running" if _alive(progress.pid) else "stopped"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


class Watcher(Protocol):
    """Observer of a run. A subclass overrides the events that it needs; the others do nothing."""

    # `return`, because mypy takes a method of a protocol with an empty body for an abstract one
    def began(self, stage: "Stage", progress: Progress) -> None:
        """progress: the stage's progress, updated while it runs."""
        return

    def stepped(self, stage: "Stage", done: int, total: int) -> None:
        return

    def ended(self, stage: "Stage") -> None:
        return

    def failed(self, stage: "Stage", sentence: str) -> None:
        return

    def said(self, sentence: str) -> None:
        return
