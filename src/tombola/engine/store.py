"""Finished stages on disk, by key: written aside, renamed into place, and shared by all studies that use the folder."""

import json
import math
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import BaseFileLock, FileLock

from tombola import files
from tombola.errors import TombolaError
from tombola.files import written_aside
from tombola.metrics.columns import ANALYSES
from tombola.study.graph import Graph, N, Node
from tombola.study.messages import in_short

from .outline import EVALUATE, PRUNE, TRAIN

if TYPE_CHECKING:
    from torch import Tensor

    from tombola.pruning.ticket import Ticket
    from tombola.study.stages import Outcome, Stage
    from tombola.training.checkpoint import Checkpoint

from .locks import check_locks

_CACHED = 4  # tickets kept in memory: a stage's parents are mostly among the last ones


class Store:
    """Folder of stages: `root/<key>/` has `ticket.safetensors` (if the stage gives one) and `record.json`.

    The record is written last, so that its presence marks the stage as done. Tickets may be removed (`engine.clean`); a
    pruning may have `mask.safetensors` instead.
    """

    def __init__(self, root: Path):
        self.root = root
        self._place = str(root)
        self.unfinished = root / "unfinished"
        """Folder of the running stages' checkpoints, locks and progress, and of the errors of failed stages."""
        self._tickets: OrderedDict[str, Ticket] = OrderedDict()
        self._whole: set[str] = set()
        """Keys whose record was read and checked, which is done once."""

    @property
    def place(self) -> str:
        """Return the store's folder, or its address."""
        return str(self.root.resolve())

    def follow(self) -> None:
        """Look for what other machines have written, from now on; on a shared disk it is seen anyway."""

    def keys(self) -> set[str]:
        """Return the names in the folder, among them the keys of finished stages, by one look."""
        return {path.name for path in self.root.glob("*")}

    def fetch(self, keys: Iterable[str]) -> None:
        """Make the records of these stages ready to read, faster than one by one."""

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
        check_locks(self.unfinished)

    def done(self, key: str) -> bool:
        """Return whether the stage has ended. One whose record is damaged has not: it is run again."""
        if not os.path.isfile(f"{self._place}/{key}/record.json"):  # not Path: thousands of stages
            return False
        if key not in self._whole:
            with suppress(TombolaError):
                self.record(key)
        return key in self._whole

    def finished(self, key: str) -> float:
        """Return the time at which a done stage was finished, by `time.time`."""
        return (self.root / key / "record.json").stat().st_mtime

    def record(self, key: str) -> dict[str, Any]:
        """Return the stage's record, and how it was run. Raises TombolaError if the file is damaged."""
        path = f"{self._place}/{key}/record.json"
        try:
            record = json.loads(files.read_plain(path))
            if key not in self._whole:
                _check_record(key, record)
                self._whole.add(key)
            return record
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise TombolaError(f"{path} is damaged ({in_short(str(error), 100)}); run the study again") from None

    def has_ticket(self, key: str) -> bool:
        """Return whether the stage's ticket is on disk; `tombola clean` removes tickets of done stages."""
        return self.ticket_path(key).is_file()

    def ticket(self, key: str) -> "Ticket":
        """Return the stage's ticket. Raises TombolaError if its file is missing or damaged."""
        from tombola.pruning.ticket import load

        if key not in self._tickets:
            self._tickets[key] = load(self.ticket_path(key))
            if len(self._tickets) > _CACHED:
                self._tickets.popitem(last=False)
        self._tickets.move_to_end(key)
        return self._tickets[key]

    def has_mask(self, key: str) -> bool:
        """Return whether the mask of a pruning was kept when its ticket was removed."""
        return self.mask_path(key).is_file()

    def mask(self, key: str) -> "tuple[Tensor, dict[str, Any]]":
        """Return the kept mask of a pruning, bool [P], and its ticket's `info`. Raises TombolaError if it is damaged."""
        tensors, description = files.read(self.mask_path(key))
        return files.unpack(tensors["mask"], description["parameters"]), description["info"]

    def keep_mask(self, key: str) -> None:
        """Write the mask of a pruning's ticket beside it, with its layout and `info`."""
        from tombola.pruning.ticket import load

        ticket = load(self.ticket_path(key))
        about = {"parameters": ticket.mask.numel(), "layout": ticket.layout.to_json(), "info": ticket.info}
        files.write(self.mask_path(key), {"mask": files.pack(ticket.mask)}, about)

    def save(self, stage: "Stage", outcome: "Outcome", run: dict[str, Any]) -> None:
        """Write the stage's outcome, which marks it as done. run: how it was run (seconds, device, ...)."""
        record = {
            "key": stage.key,
            "kind": stage.kind,
            "version": stage.version,
            "settings": stage.describe(),
            "parents": [parent.key for parent in stage.parents],
            "record": outcome.record,
            "run": run,
        } | ({"history": outcome.history} if outcome.history else {})
        try:
            with written_aside(self.root / stage.key, self.unfinished / f"{stage.key}.{os.getpid()}") as aside:
                aside.mkdir()
                if outcome.ticket is not None:
                    outcome.ticket.save(aside / self.ticket_path("").name)
                (aside / "record.json").write_text(json.dumps(record, indent=1))
                Store.discard(self, stage.key)  # a folder cannot be renamed onto another, such as that of a damaged stage
        except OSError as error:
            raise TombolaError(
                f"cannot write stage {stage.key} to {self.root}: {error.strerror}; free space or permissions"
            ) from None
        self.checkpoint_path(stage.key).unlink(missing_ok=True)
        self.error_path(stage.key).unlink(missing_ok=True)

    def remove_ticket(self, key: str) -> None:
        """Remove the stage's ticket; its record stays."""
        self._tickets.pop(key, None)
        self.ticket_path(key).unlink(missing_ok=True)

    def discard(self, key: str) -> None:
        """Remove a stage, so that it is run again."""
        self._tickets.pop(key, None)
        self._whole.discard(key)
        shutil.rmtree(self.root / key, ignore_errors=True)

    def checkpoint(self, key: str, seconds: float, ends: float = math.inf) -> "Checkpoint":
        from tombola.training.checkpoint import Checkpoint

        return Checkpoint(self.checkpoint_path(key), seconds, ends)

    def ticket_path(self, key: str) -> Path:
        return self.root / key / "ticket.safetensors"

    def mask_path(self, key: str) -> Path:
        return self.root / key / "mask.safetensors"

    def checkpoint_path(self, key: str) -> Path:
        return self.unfinished / f"{key}.checkpoint"

    def error_path(self, key: str) -> Path:
        """Return the path of a failed stage's traceback."""
        return self.unfinished / f"{key}.error"

    def fail(self, key: str, text: str) -> None:
        """Keep the traceback of a failed stage, or a sentence; the last line is what is shown."""
        self.error_path(key).write_text(text)

    def failure(self, key: str) -> tuple[float, str]:
        """Return the time at which the stage failed and the last line of its traceback, empty if it has not failed."""
        if not os.path.isfile(f"{self._place}/unfinished/{key}.error"):  # not Path: thousands of stages
            return 0.0, ""
        log = self.error_path(key)
        try:
            lines = log.read_text(errors="replace").strip().splitlines()
            return log.stat().st_mtime, lines[-1] if lines else "failed"
        except OSError:
            return 0.0, ""

    def forget_failures(self, keys: Iterable[str]) -> None:
        """Remove the errors of these stages, so that they are tried again."""
        there = {path.name for path in self.unfinished.glob("*.error")}
        for key in keys:
            if (path := self.error_path(key)).name in there:
                path.unlink(missing_ok=True)

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


_RUN: dict[str, Any] = {"seconds": (int, float), "device": str, "torch": str, "threads": int}
_TRAINED: dict[str, Any] = {"train_seconds": (int, float), "best_accuracy": (int, float)}


def _check_record(key: str, record: Any) -> None:
    """Raise ValueError or its like for a file that is not this stage's record, or lacks what tables read from it."""
    if record["key"] != key:
        raise ValueError(f"it is of stage {in_short(repr(record['key']))}")
    found, kind = record["record"], record["kind"]
    for place, values, fields in (("run", record["run"], _RUN), ("record", found, _TRAINED if kind == TRAIN else {})):
        _ = values.keys()  # raises where it is no mapping
        for name, of in fields.items():
            if (
                isinstance(values[name], bool)
                or not isinstance(values[name], of)
                or not (of is str or _is(values[name], ""))
            ):
                raise ValueError(f"its {place} has {name} {in_short(repr(values[name]))}")
    if kind in (TRAIN, EVALUATE):
        odd = [name for name, value in found.items() if name != "layer_density" and (value is None or not _is(value, ""))]
        if odd:
            raise ValueError(f"its record has {in_short(odd[0])} {in_short(repr(found[odd[0]]))}")
    if kind == EVALUATE and not isinstance(json.loads(found["layer_density"]), dict):
        raise ValueError("its layer_density is no mapping")
    for name, rows in (("rows", found.get("rows", [])), ("history", record.get("history", []))):
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"its {name} are no rows")
    for row in found.get("rows", []):
        _check_row(row, len(record["parents"]))
    if odd := [value for epoch in record.get("history", []) for value in epoch.values() if not _is(value, "")]:
        raise ValueError(f"its history has {in_short(repr(odd[0]))}")


def _check_row(row: dict[str, Any], tickets: int) -> None:
    """Raise ValueError unless an analysis's row is of two of its tickets, and has texts and numbers where tables do."""
    for name in ("a", "b"):
        if type(row.get(name)) is not int or not 0 <= row[name] < tickets:
            raise ValueError(f"its rows have {name} {in_short(repr(row.get(name)))}, and {tickets} tickets are compared")
    for name, value in row.items():
        if name in ANALYSES and not _is(value, ANALYSES[name].unit):
            raise ValueError(f"its rows have {name} {in_short(repr(value))}")


def _is(value: Any, unit: str) -> bool:
    """Return whether it is a text, or for any other unit a number; or missing."""
    if unit == "text":
        return value is None or isinstance(value, str)
    return value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)  # as tables hold


def missing(plan: Graph[N], store: Store) -> list[N]:
    """Return the stages that still have to run, parents first.

    These are the unfinished stages whose records the plan's tables read, with the stages that they depend on and that are
    unfinished or whose tickets were removed. A missing stage on which only finished ones depend is left out.
    """
    read = {stage.key for row in plan.wanted for stage in row.read}
    store.fetch(stage.key for stage in plan.stages)
    parents: set[str] = set()  # whose tickets are needed
    found: list[N] = []
    for stage in reversed(plan.stages):  # children first
        wanted, needed = stage.key in read, stage.key in parents
        if not (wanted or needed) or (store.done(stage.key) and (not needed or store.has_ticket(stage.key))):
            continue
        found.append(stage)
        parents |= {parent.key for parent in parents_needed(stage, store)}
    return found[::-1]


def parents_needed(stage: Node, store: Store) -> tuple[Any, ...]:
    """Return the parents whose tickets a run of the stage reads; a pruning whose mask was kept reads no trained one."""
    return stage.parents[1:] if stage.kind == PRUNE and store.has_mask(stage.key) else stage.parents
