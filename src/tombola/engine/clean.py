"""Cleaning of a store: the files that no record and no unfinished stage needs."""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tombola.errors import TombolaError
from tombola.study.graph import Graph, Node

from .outline import PRUNE
from .progress import seen
from .store import Store, missing, parents_needed

_KEY = re.compile(r"[0-9a-f]{24}")
_RESUMES = (".checkpoint", ".error", ".lock")  # of a stage that is still to run


@dataclass(frozen=True)
class Part:
    """Files of one kind in a store."""

    what: str
    paths: list[Path] = field(default_factory=list)
    """Files, or folders of stages."""
    goes: bool = True
    """False for files that stay as the caller has asked."""

    @property
    def bytes(self) -> int:
        """Return the size of the files."""
        return size_of(self.paths)


@dataclass(frozen=True)
class Cleaning:
    """Survey of a store: the parts that may go."""

    store: Store
    tickets: Part
    masks: Part
    leftovers: Part
    orphans: Part
    pruned: frozenset[str]
    """Keys of the prunings among the tickets, whose masks can be kept."""

    @property
    def parts(self) -> Sequence[Part]:
        return self.tickets, self.masks, self.leftovers, self.orphans

    @property
    def freed(self) -> int:
        """Return the bytes of what goes. Masks that are written instead are not counted."""
        return sum(part.bytes for part in self.parts if part.goes)

    def run(self) -> None:
        """Remove the parts that go; where masks stay, write those of the prunings first. Raises TombolaError."""
        try:
            for path in self.tickets.paths:
                key = path.parent.name
                if not self.masks.goes and key in self.pruned:
                    self.store.keep_mask(key)
                self.store.remove_ticket(key)
            for part in (self.masks, self.leftovers, self.orphans):
                for path in part.paths if part.goes else ():
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        except OSError as error:
            raise TombolaError(f"cannot clean {self.store.root}: {error.strerror}; check the folder's permissions") from None


def survey(store: Store, plans: Iterable[Graph[Node]], *, keep_masks: bool, orphans: bool) -> Cleaning:
    """Return what may go from the store of these plans' studies.

    Tickets go, unless an unfinished stage reads them; records stay. Orphans, the stages of no plan, go where `orphans` says
    so. Raises TombolaError while a process runs on the store.
    """
    if busy := [one.progress for one in seen(store.unfinished) if one.state != "stopped"]:
        raise TombolaError(
            f"process {busy[0].pid} on {busy[0].host} runs {busy[0].study!r} on {store.root}; wait for its end, or stop it"
        )
    plans = list(plans)
    stages = {stage.key: stage for plan in plans for stage in plan.stages}
    to_run = {stage.key: stage for plan in plans for stage in missing(plan, store)}
    needed = {parent.key for stage in to_run.values() for parent in parents_needed(stage, store)}
    unread = [key for key in stages if key not in needed and key not in to_run and store.done(key)]
    folders = [path for path in store.root.glob("*") if _KEY.fullmatch(path.name)]
    left, strange = list[Path](), [path for path in folders if path.name not in stages]
    for path in store.unfinished.glob("*"):
        key = path.name.partition(".")[0]
        if not _KEY.fullmatch(key) or (key in to_run and path.suffix in _RESUMES):
            continue
        (left if key in stages else strange).append(path)
    return Cleaning(
        store,
        Part("tickets that no unfinished stage reads", [store.ticket_path(key) for key in unread if store.has_ticket(key)]),
        Part("masks that were kept", [store.mask_path(key) for key in unread if store.has_mask(key)], goes=not keep_masks),
        Part("files of runs that were cut off", left),
        Part("stages of no study", strange, goes=orphans),
        frozenset(key for key in unread if stages[key].kind == PRUNE),
    )


def size_of(paths: Iterable[Path | os.DirEntry[str]]) -> int:
    """Return the bytes of files, and of all files in folders; 0 for what is gone meanwhile."""
    total = 0
    for path in paths:
        with suppress(OSError):
            total += size_of(os.scandir(path)) if path.is_dir() else path.stat().st_size
    return total
