"""Finished stages on disk, by key: written aside, renamed into place, and shared by all studies that use the folder."""

import json
import math
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock

from tombola.errors import TombolaError
from tombola.files import written_aside
from tombola.pruning.ticket import Ticket, load
from tombola.study.plan import Plan
from tombola.study.stages import Outcome, Stage, ancestors
from tombola.training.checkpoint import Checkpoint

_CACHED = 4  # tickets kept in memory: a stage's parents are mostly among the last ones


class Store:
    """Folder of stages: `root/<key>/` has `ticket.safetensors` (if the stage gives one) and `record.json`.

    The record is written last, so that its presence marks the stage as done.
    """

    def __init__(self, root: Path):
        self.root = root
        self.unfinished = root / "unfinished"
        """Folder of the running stages' checkpoints, locks and progress, and of the errors of failed stages."""
        self._tickets: OrderedDict[str, Ticket] = OrderedDict()
        self._whole: set[str] = set()
        """Keys whose record was read, so that `done` parses each only once."""

    def prepare(self) -> None:
        """Make the folder. Raises TombolaError if it can't be written."""
        try:
            self.unfinished.mkdir(parents=True, exist_ok=True)
            probe = self.unfinished / f"probe.{os.getpid()}"
            probe.touch()
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise TombolaError(
                f"cannot write to {self.root}: {error.strerror}; choose another folder with --out or --store"
            ) from None

    def done(self, key: str) -> bool:
        """Return whether the stage has ended. One whose record is damaged has not: it is run again."""
        if not (self.root / key / "record.json").is_file():
            return False
        if key not in self._whole:
            with suppress(TombolaError):
                self.record(key)
                self._whole.add(key)
        return key in self._whole

    def finished(self, key: str) -> float:
        """Return the time at which a done stage was finished, by `time.time`."""
        return (self.root / key / "record.json").stat().st_mtime

    def record(self, key: str) -> dict[str, Any]:
        """Return the stage's record, and how it was run. Raises TombolaError if the file is damaged."""
        path = self.root / key / "record.json"
        try:
            record = json.loads(path.read_text())
            _ = record["record"].keys(), record["run"].keys()  # raise if missing
            return record
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise TombolaError(f"{path} is damaged ({error}); run the study again") from None

    def ticket(self, key: str) -> Ticket:
        """Return the stage's ticket. Raises TombolaError if its file is damaged."""
        if key not in self._tickets:
            self._tickets[key] = load(self.root / key / "ticket.safetensors")
            if len(self._tickets) > _CACHED:
                self._tickets.popitem(last=False)
        self._tickets.move_to_end(key)
        return self._tickets[key]

    def save(self, stage: Stage, outcome: Outcome, run: dict[str, Any]) -> None:
        """Write the stage's outcome, which marks it as done. run: how it was run (seconds, device, ...)."""
        record = {
            "key": stage.key,
            "kind": stage.kind,
            "version": stage.version,
            "settings": stage.describe(),
            "parents": [parent.key for parent in stage.parents],
            "record": outcome.record,
            "run": run,
        }
        try:
            with written_aside(self.root / stage.key, self.unfinished / f"{stage.key}.{os.getpid()}") as aside:
                aside.mkdir()
                if outcome.ticket is not None:
                    outcome.ticket.save(aside / "ticket.safetensors")
                (aside / "record.json").write_text(json.dumps(record, indent=1))
                self.discard(stage.key)  # a folder cannot be renamed onto another, such as that of a damaged stage
        except OSError as error:
            raise TombolaError(
                f"cannot write stage {stage.key} to {self.root}: {error.strerror}; free space or permissions"
            ) from None
        self.checkpoint_path(stage.key).unlink(missing_ok=True)
        self.error_path(stage.key).unlink(missing_ok=True)

    def discard(self, key: str) -> None:
        """Remove a stage, so that it is run again."""
        self._tickets.pop(key, None)
        self._whole.discard(key)
        shutil.rmtree(self.root / key, ignore_errors=True)

    def checkpoint(self, key: str, seconds: float, ends: float = math.inf) -> Checkpoint:
        return Checkpoint(self.checkpoint_path(key), seconds, ends)

    def checkpoint_path(self, key: str) -> Path:
        return self.unfinished / f"{key}.checkpoint"

    def error_path(self, key: str) -> Path:
        """Return the path of a failed stage's traceback."""
        return self.unfinished / f"{key}.error"

    def failure(self, key: str) -> tuple[float, str]:
        """Return the time at which the stage failed and the last line of its traceback, empty if it has not failed."""
        log = self.error_path(key)
        try:
            lines = log.read_text(errors="replace").strip().splitlines()
            return log.stat().st_mtime, lines[-1] if lines else "failed"
        except OSError:
            return 0.0, ""

    def forget_failures(self, keys: Iterable[str]) -> None:
        """Remove the errors of these stages, so that they are tried again."""
        for key in keys:
            self.error_path(key).unlink(missing_ok=True)

    def lock(self, key: str) -> BaseFileLock:
        """Return the lock that a process holds while it runs the stage, so that no other process runs it too.

        It is the system's own (flock): the kernel releases it when the process dies, even by SIGKILL.
        """
        return FileLock(self.unfinished / f"{key}.lock")

    def unlock(self, key: str, lock: BaseFileLock) -> None:
        """Release the lock. Remove its file if the stage is done, so that such files do not pile up.

        A process that has opened the removed file and gets its lock finds the stage done; of any other stage the file stays,
        because two processes could then hold locks on two files of one name.
        """
        if self.done(key):
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def missing(plan: Plan, store: Store) -> list[Stage]:
    """Return the stages that still have to run, parents first.

    These are the unfinished stages whose records the plan's tables read, with the unfinished stages that they depend on.
    A missing stage on which only finished ones depend is left out.
    """
    return ancestors(*(stage for row in plan.wanted for stage in row.read), known=store.done)
