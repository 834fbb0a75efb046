"""A store at an address: its stages are mirrored on the local disk, and shared by processes on any number of machines.

At the address, `records/KEY.json` marks a stage as done, and names its ticket's object. It is created once: of two processes
that finish a stage, the second one drops its outcome and takes the first one's.
"""

import json
import math
import socket
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, Timeout
from torch import Tensor

from tombola.errors import TombolaError
from tombola.files import written_aside
from tombola.pruning.ticket import Ticket
from tombola.study.stages import Outcome, Stage
from tombola.training.checkpoint import Checkpoint

from .remote import EXPIRES, Leases, Remote
from .store import Store

_FRESH = 1.0  # seconds for which a listing counts
_SYNC = 4.0  # seconds between the exchanges of progress and errors


class RemoteStore(Store):
    """Store whose folder is a mirror of an address."""

    def __init__(self, address: str, root: Path | None = None, expires: float = EXPIRES):
        """root: the mirror; by default in $TOMBOLA_CACHE. expires: seconds after which a dead machine's stages are free."""
        self.remote = Remote(address)
        super().__init__(root or self.remote.mirror())
        self._leases, self._expires = Leases(self.remote, expires), expires
        self._listed: dict[str, tuple[float, set[str]]] = {}
        self._thread: threading.Thread | None = None
        self._pushed: dict[str, bytes] = {}

    @property
    def place(self) -> str:
        return self.remote.address

    def prepare(self) -> None:
        super().prepare()
        self.remote.probe()
        self.follow()

    def follow(self) -> None:
        """Exchange progress and errors with other machines now, and in the background from now on."""
        self.unfinished.mkdir(parents=True, exist_ok=True)
        done = self._names("records", fresh=0.0)
        for path in self.root.glob("*/record.json"):
            if f"{(key := path.parent.name)}.json" not in done:
                self._forget(key)
        self._exchange()
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_exchanging, daemon=True)
            self._thread.start()

    def keys(self) -> set[str]:
        return {Path(name).stem for name in self._names("records")}

    def done(self, key: str) -> bool:
        if super().done(key):
            return True
        if f"{key}.json" in self._names("records"):
            self._fetch([key])
        return super().done(key)

    def fetch(self, keys: Iterable[str]) -> None:
        """Copy the records of these stages that are done to the mirror, all at once."""
        there = self._names("records")
        self._fetch([key for key in keys if f"{key}.json" in there and not super(RemoteStore, self).done(key)])

    def has_ticket(self, key: str) -> bool:
        return super().has_ticket(key) or (self.done(key) and "ticket" in super().record(key))

    def ticket(self, key: str) -> Ticket:
        if not super().has_ticket(key) and self.done(key) and (token := super().record(key).get("ticket")):
            data = self.remote.get(f"tickets/{key}.{token}.safetensors")
            if data is not None:
                with written_aside(self.ticket_path(key)) as aside:
                    aside.write_bytes(data)
        return super().ticket(key)

    def has_mask(self, key: str) -> bool:
        return False  # `tombola clean` is for stores on disk

    def mask(self, key: str) -> tuple[Tensor, dict[str, Any]]:
        raise TombolaError(f"{self.remote.address} keeps tickets, no masks alone; use Store.ticket")

    def save(self, stage: Stage, outcome: Outcome, run: dict[str, Any]) -> None:
        super().save(stage, outcome, run)
        key, record = stage.key, super().record(stage.key)
        ticket = f"tickets/{key}.{(token := uuid.uuid4().hex[:12])}.safetensors"
        if outcome.ticket is not None:
            record["ticket"] = token
            self.remote.put(ticket, self.ticket_path(key).read_bytes())
        data = json.dumps(record, indent=1).encode()
        if not self.remote.create(f"records/{key}.json", data):
            theirs = self.remote.get(f"records/{key}.json")
            if theirs is not None and _is_whole(theirs):
                self.remote.delete(ticket)
                super().discard(key)
                data = theirs
            else:  # damaged: ours takes its place
                self.remote.put(f"records/{key}.json", data)
        self._write_record(key, data)
        self._listed.pop("records", None)
        for name in (f"checkpoints/{key}", f"unfinished/{key}.error"):
            self.remote.delete(name)

    def remove_ticket(self, key: str) -> None:
        """Remove a damaged ticket with its record, so that the stage is run again."""
        super().remove_ticket(key)
        self.discard(key)

    def discard(self, key: str) -> None:
        super().discard(key)
        self.remote.delete(f"records/{key}.json")
        self._listed.pop("records", None)

    def checkpoint(self, key: str, seconds: float, ends: float = math.inf) -> Checkpoint:
        path = self.checkpoint_path(key)
        if (data := self.remote.get(f"checkpoints/{key}")) is not None:
            with written_aside(path) as aside:
                aside.write_bytes(data)
        return _Uploaded(self.remote, path, seconds, ends)

    def fail(self, key: str, text: str) -> None:
        self.remote.put(f"unfinished/{key}.error", text.encode())
        super().fail(key, text)  # last: `_exchange` removes errors that the address lacks

    def forget_failures(self, keys: Iterable[str]) -> None:
        there, keys = self.remote.names("unfinished"), list(keys)
        for key in keys:
            if f"{key}.error" in there:
                self.remote.delete(f"unfinished/{key}.error")
        super().forget_failures(keys)

    def lock(self, key: str) -> BaseFileLock:
        return _Leased(self, key)  # type: ignore[return-value]

    def _forget(self, key: str) -> None:
        """Remove a stage that the address lacks from the mirror, unless a process of this machine is saving it."""
        lock = Store.lock(self, key)
        with suppress(Timeout):
            lock.acquire(blocking=False)
            super().discard(key)
            self.unlock(key, lock)

    def _names(self, folder: str, fresh: float = _FRESH) -> set[str]:
        then, names = self._listed.get(folder, (-math.inf, set()))
        if time.monotonic() - then > fresh:
            names = self.remote.names(folder)
            self._listed[folder] = time.monotonic(), names
        return names

    def _fetch(self, keys: list[str]) -> None:
        for name, data in self.remote.get_all([f"records/{key}.json" for key in keys]).items():
            self._write_record(Path(name).stem, data)

    def _write_record(self, key: str, data: bytes) -> None:
        path = self.root / key / "record.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            aside.write_bytes(data)

    def _keep_exchanging(self) -> None:
        while True:
            time.sleep(min(_SYNC, self._expires / 4))
            with suppress(Exception):  # a connection that is lost for a while ends no run
                self._leases.renew()
                self._exchange()

    def _exchange(self) -> None:
        """Write this machine's progress to the address, and copy other machines' progress and errors here."""
        host = f"{socket.gethostname()}."
        own = {path.name: path for path in self.unfinished.glob("*.progress") if path.name.startswith(host)}
        errors = list(self.unfinished.glob("*.error"))  # before the listing: one that is written meanwhile stays
        there = {name for name in self.remote.names("unfinished") if name.endswith((".progress", ".error"))}
        theirs = sorted(f"unfinished/{name}" for name in there if not name.startswith(host))
        for name, data in self.remote.get_all(theirs).items():
            (self.root / name).write_bytes(data)
        for name, path in own.items():
            with suppress(OSError):
                if (data := path.read_bytes()) != self._pushed.get(name):
                    self.remote.put(f"unfinished/{name}", data)
                    self._pushed[name] = data
        for name in {name for name in there if name.startswith(host)} - own.keys():
            self.remote.delete(f"unfinished/{name}")
        # of processes elsewhere that have ended, and failures that another run has forgotten
        for path in [*self.unfinished.glob("*.progress"), *errors]:
            if path.name not in own and path.name not in there:
                path.unlink(missing_ok=True)


class _Uploaded(Checkpoint):
    """Checkpoint that other machines can resume."""

    def __init__(self, remote: Remote, path: Path, seconds: float, ends: float):
        super().__init__(path, seconds, ends)
        self._remote = remote

    def write(self, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
        super().write(tensors, description)
        self._remote.put(f"checkpoints/{self.path.stem}", self.path.read_bytes())


class _Leased:
    """Lock on a stage: the mirror's file for this machine, the lease for all."""

    def __init__(self, store: RemoteStore, key: str):
        self._store, self._key = store, key
        self._file = Store.lock(store, key)
        self.lock_file = self._file.lock_file

    def acquire(self, blocking: bool = True) -> None:
        self._file.acquire(blocking=blocking)
        while not self._store._leases.take(self._key):
            if not blocking:
                self._file.release()
                raise Timeout(self.lock_file)
            time.sleep(1.0)
        self._store._listed.pop("records", None)  # what was finished meanwhile is seen under the lock

    def release(self) -> None:
        self._store._leases.give_back(self._key)
        self._file.release()


def _is_whole(data: bytes) -> bool:
    try:
        return {"record", "run"} <= json.loads(data).keys()
    except (ValueError, AttributeError):
        return False
