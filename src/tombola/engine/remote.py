"""Folders on shared storage (s3://, gs://, abfs:// and whatever fsspec knows), and leases, which lock names in them.

A lease is an object that only one writer can create and that its holder rewrites now and then. One that nobody has rewritten
for a while is taken over by creating the next generation of it, so clocks of machines are never compared.
"""

import hashlib
import json
import os
import shutil
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from tombola.errors import TombolaError

_SETTLES = 2.0  # seconds until a write is seen by all, where the storage cannot refuse a second one
EXPIRES = 60.0
"""Seconds without a sign of life after which a lease is taken over."""


class Remote:
    """Folder at an address."""

    def __init__(self, address: str):
        """Raise TombolaError if the address has an unknown scheme or its package is missing."""
        import fsspec

        self.address = address.rstrip("/")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.address, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise TombolaError(f"{address}: {error}; for s3:// install 'tombola[s3]'") from None
        self._exclusive: bool | None = None
        """True if the storage refuses to create an object twice; None until `probe` has found out."""

    def mirror(self) -> Path:
        """Return the local folder that holds copies of what was read and written."""
        home = os.environ.get("TOMBOLA_CACHE") or Path.home() / ".cache" / "tombola"
        return Path(home) / "remote" / hashlib.sha256(self.address.encode()).hexdigest()[:16]

    def probe(self) -> None:
        """Find out whether the storage refuses to create an object twice. Raises TombolaError if it can't be written."""
        name = f"unfinished/probe.{uuid.uuid4().hex}"
        self._exclusive = True
        try:
            self.create(name, b"")
            self._exclusive = not self.create(name, b"")
        except (TypeError, NotImplementedError):
            self._exclusive = False
        except Exception as error:  # each storage has errors of its own
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise TombolaError(f"cannot write to {self.address} ({why}); check the address and your credentials") from None
        self.delete(name)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one; return whether it was written. One of several writers at a time succeeds."""
        if self._exclusive is None:
            self.probe()
        if self._exclusive:
            try:
                self._fs.pipe_file(self._at(name), data, mode="create")
            except FileExistsError:
                return False
            return True
        if self.get(name) is not None:
            return False
        self.put(name, data)
        time.sleep(_SETTLES)
        return self.get(name) == data

    def put(self, name: str, data: bytes) -> None:
        self._fs.pipe_file(self._at(name), data)

    def get(self, name: str) -> bytes | None:
        """Return an object's bytes; None if there is none."""
        try:
            found: bytes = self._fs.cat_file(self._at(name))
        except FileNotFoundError:
            return None
        return found

    def get_all(self, names: list[str]) -> dict[str, bytes]:
        """Return the bytes of several objects, fetched side by side."""
        found = self._fs.cat([self._at(name) for name in names], on_error="omit") if names else {}
        return {path.removeprefix(f"{self._root}/").lstrip("/"): data for path, data in found.items()}

    def delete(self, name: str) -> None:
        try:
            self._fs.rm_file(self._at(name))
        except FileNotFoundError:
            return

    def names(self, folder: str) -> set[str]:
        """Return the names of the objects in a folder."""
        try:
            return {Path(path).name for path in self._fs.ls(self._at(folder), detail=False)}
        except FileNotFoundError:
            return set()

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"


class Leases:
    """Leases of one process in a remote folder. Safe for one thread that takes and one that renews."""

    def __init__(self, remote: Remote, expires: float = EXPIRES):
        self._remote, self._expires = remote, expires
        self._held: dict[str, int] = {}
        self._seen: dict[str, tuple[bytes | None, float]] = {}
        self._beats = 0
        self._giving = threading.Lock()
        """Held while leases are renewed or given back: what was given back another process may have taken."""
        self._me = {"host": socket.gethostname(), "pid": os.getpid(), "process": uuid.uuid4().hex}

    def take(self, name: str) -> bool:
        """Return whether the lease was free, or expired, and is held now."""
        generation = max(self._generations(name), default=0)
        if generation and not self._is_over(f"{name}.{generation}"):
            return False
        if not self._remote.create(f"leases/{name}.{generation + 1}", self._sign()):
            return False
        self._held[name] = generation + 1
        return True

    def give_back(self, name: str) -> None:
        """Release a held lease, with earlier generations that have expired."""
        with self._giving:
            own = self._held.pop(name, 0)
            for generation in self._generations(name):
                if generation <= own:
                    self._remote.delete(f"leases/{name}.{generation}")

    def renew(self) -> None:
        """Give a sign of life for each held lease that nobody has taken over."""
        for name, generation in list(self._held.items()):
            with self._giving:
                if name in self._held and max(self._generations(name), default=0) <= generation:
                    self._remote.put(f"leases/{name}.{generation}", self._sign())

    def _generations(self, name: str) -> list[int]:
        pairs = [found.rpartition(".") for found in self._remote.names("leases")]
        return [int(number) for stem, _, number in pairs if stem == name and number.isdigit()]

    def _is_over(self, name: str) -> bool:
        """Return whether the holder has died: seen by its process id on this machine, else by its silence."""
        now, content = time.monotonic(), self._remote.get(f"leases/{name}")
        if content is None:  # given back since it was listed: another process may have the name's first generation by now
            return False
        if content != self._seen.get(name, (None, 0.0))[0]:
            self._seen[name] = content, now
        return _has_died(content) or now - self._seen[name][1] >= self._expires

    def _sign(self) -> bytes:
        self._beats += 1
        return json.dumps(self._me | {"beat": self._beats}).encode()


def _has_died(content: bytes | None) -> bool:
    try:
        holder: dict[str, Any] = json.loads(content or b"{}")
        if holder["host"] == socket.gethostname():
            os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except (ValueError, LookupError, TypeError, OSError):
        return False
    return False


def mirrored(address: str) -> Path:
    """Return the local folder of a study at an address, with copies of its settings and plan if there are any."""
    remote = Remote(address)
    path = remote.mirror() / address.rstrip("/").rpartition("/")[2]
    path.mkdir(parents=True, exist_ok=True)
    for name in ("study.json", "plan.json", "forecast.json"):
        if (data := remote.get(name)) is not None:
            (path / name).write_bytes(data)
        elif name == "study.json":
            shutil.rmtree(path)
            break
    return path
