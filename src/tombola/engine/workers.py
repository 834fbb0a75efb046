"""Worker processes of one study, which the first process starts, watches and ends.

Each worker runs a `LocalEngine` on the study's folder, whatever engine a single process would use: the store's locks
divide the stages among them. A worker's standard input is a pipe into which nobody writes. It closes when the first
process ends, even by SIGKILL, and then the worker ends, too.
"""

import _thread
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from . import TIME_UP
from .pull import pull

_START = "from tombola.engine.workers import main; raise SystemExit(main())"
_GRACE = 8.0  # seconds that a worker has to end before it is killed: clusters mostly kill ten seconds after SIGTERM


class Workers:
    """Context in which the workers run; leaving it ends them."""

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        jobs: int,
        threads: int,
        say: Callable[[str], None],
        ends: float = math.inf,
        devices: int = 1,
    ):
        """Prepare `jobs` workers of `threads` threads each.

        say: called with each line that a worker prints, and with a sentence for each worker that dies. ends: time, by
        `time.time`, at which each worker stops by itself. devices: processes at each training of a worker.
        """
        # -P: no module is imported from the working directory, as none is by the `tombola` command
        command = [sys.executable, "-P", "-c", _START, str(folder)]
        more = [str(threads), str(ends), str(devices)]
        self._commands = [[*command, each, *more] for each in _devices(device, jobs, devices)]
        self._say = say
        self._all: list[subprocess.Popen[str]] = []
        self._alive: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []
        self.time_up = False
        """True as soon as a worker has stopped because its time was up."""

    def __enter__(self) -> "Workers":
        for command in self._commands:
            # a session of its own: Ctrl-C reaches only the first process, which then ends the workers
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            self._all.append(process)
            self._alive.append(process)
            self._readers.append(threading.Thread(target=self._listen, args=(process,), daemon=True))
            self._readers[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._all:
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.close()
        deadline = time.monotonic() + _GRACE
        for process, reader in zip(self._all, self._readers, strict=True):
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            reader.join(1.0)

    def at_work(self) -> bool:
        """Return whether any worker still runs. Report dead ones, whose stages other workers resume."""
        for process in list(self._alive):
            if (code := process.poll()) is None:
                continue
            self._alive.remove(process)
            self.time_up |= code == TIME_UP
            if code not in (0, TIME_UP):
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                self._say(f"worker {process.pid} has died ({how}); other workers go on with its stage")
        return bool(self._alive)

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._say(line.rstrip())


def _devices(device: torch.device, jobs: int, each: int) -> list[str]:
    """Return each worker's first device: of several GPUs `each` after another, unless `device` has a number."""
    if device.type != "cuda" or device.index is not None:
        return [str(device)] * jobs
    places = torch.cuda.device_count() // each
    return [f"cuda:{number % places * each}" for number in range(jobs)]


def main() -> int:
    """Run a worker with folder, device, threads, end and devices as arguments; return its exit code."""
    # set here because a script's background processes inherit ignored interrupts
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.default_int_handler)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    folder, device, threads, ends, devices = sys.argv[1:]
    return pull(Path(folder), device, int(threads), float(ends), devices=int(devices))


def _end_with_the_first() -> None:
    # os.read, because a read through sys.stdin's buffer would hold its lock when the interpreter ends
    os.read(sys.stdin.fileno(), 1)
    _thread.interrupt_main()
