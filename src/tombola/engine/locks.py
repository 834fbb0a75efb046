"""Locks between processes and machines: whether a folder's file system has them, and where a process begins to look."""

import fcntl
import os
import socket
import zlib
from pathlib import Path

from tombola.errors import TombolaError

_MACHINE_ONLY = {"nolock", "localflock", "local_lock=all", "local_lock=flock"}
"""Options of NFS and Lustre mounts by which a lock holds on one machine alone."""


def check_locks(folder: Path, mounts: Path = Path("/proc/mounts")) -> None:
    """Raise TombolaError where two processes could hold one lock: on such a disk a stage would run twice.

    mounts: the system's table of mounts; a system without one is tried only.
    """
    mend = "use --store on a local disk for one machine, or an address such as s3://... for several"
    options = _options_of(folder.resolve(), mounts)
    if found := sorted(_MACHINE_ONLY & options):
        raise TombolaError(f"{folder} is mounted with {found[0]}: its locks hold on one machine alone; {mend}")
    probe = folder / f"probe.{os.getpid()}.lock"
    try:
        first, second = (os.open(probe, os.O_RDWR | os.O_CREAT) for _ in range(2))
    except OSError:
        return  # `Store.prepare` says why it can't be written
    try:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        raise TombolaError(f"the file system of {folder} gives one lock twice; {mend}")
    except OSError as error:
        raise TombolaError(f"the file system of {folder} has no locks ({error.strerror}); {mend}") from None
    finally:
        os.close(first)
        os.close(second)
        probe.unlink(missing_ok=True)


def _options_of(folder: Path, mounts: Path) -> set[str]:
    """Return the options of the mount that the folder is on."""
    try:
        rows = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return set()
    on = [row for row in rows if len(row) > 3 and folder.is_relative_to(row[1].replace("\\040", " "))]
    return set(max(on, key=lambda row: len(row[1]))[3].split(",")) if on else set()


def own_place(count: int) -> int:
    """Return a place of this process's own among `count`, below it."""
    return zlib.crc32(f"{socket.gethostname()} {os.getpid()}".encode()) % count
