"""Several processes at one study: started, looked after and ended by the first.

Each worker is an engine of its own on the study's folder, and the store's locks share the work among them (`engine`). A
worker's standard input is a pipe into which nobody writes: it closes when the first process ends, however that ends, and
then the worker ends, too.
"""

import _thread
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from tombola.errors import TombolaError
from tombola.study.stages import Stage
from tombola.training.checkpoint import TimeUp
from tombola.training.out_of_memory import keep_freed_memory

from .folder import StudyFolder
from .local import LocalEngine
from .progress import Progress

_START = "from tombola.engine.workers import main; raise SystemExit(main())"
TIME_UP = 3
"""The exit code of a process whose time was up before all was done."""
_GRACE = 10.0  # seconds that a worker has to end before it is killed


class Workers:
    """Within the context the workers are at the study; leaving it ends them."""

    def __init__(
        self, folder: Path, device: torch.device, jobs: int, threads: int, say: Callable[[str], None], ends: float = math.inf
    ):
        """threads: of each. say: is given what workers say, line by line, and who of them has died. ends: by `time.time`,
        when each stops by itself."""
        # -P: the working directory is no place of modules, as it is none for the `tombola` command
        self._command = [sys.executable, "-P", "-c", _START, str(folder), str(device), str(threads), str(ends)]
        self._jobs, self._say = jobs, say
        self._all: list[subprocess.Popen[str]] = []
        self._alive: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []
        self.time_up = False
        """Whether one of them has stopped because its time was up."""

    def __enter__(self) -> "Workers":
        for _ in range(self._jobs):
            # a session of its own: Ctrl-C reaches the first process alone, which then ends them
            process = subprocess.Popen(
                self._command,
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
        """Whether any still runs. One that has died is said: what it was at is free for the others."""
        for process in list(self._alive):
            code = process.poll()
            if code is not None:
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


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Within it SIGTERM is as Ctrl-C, so that whoever is ended by it can end others."""
    if threading.current_thread() is not threading.main_thread():  # which alone may set it
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Teller:
    """Says what cannot be seen in the store: failures and counts are read from there."""

    def began(self, stage: Stage, progress: Progress) -> None: ...
    def stepped(self, stage: Stage, done: int, total: int) -> None: ...
    def ended(self, stage: Stage) -> None: ...
    def failed(self, stage: Stage, sentence: str) -> None: ...
    def said(self, sentence: str) -> None:
        print(sentence, flush=True)


def main() -> int:
    """A worker: folder, device, threads and end as arguments."""
    # also where the first process was started with interrupts ignored, as in the background of a script
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.default_int_handler)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    try:
        folder, device, threads, ends = sys.argv[1:]
        torch.set_num_threads(int(threads))
        keep_freed_memory()
        opened = StudyFolder.open(Path(folder))
        study = opened.variants[0].study
        engine = LocalEngine(
            opened.store,
            torch.device(device),
            _Teller(),
            study.checkpoint_seconds,
            joins=True,
            ends=float(ends),
        )
        engine.run(opened.plan)
    except TombolaError as error:
        print(error, flush=True)
        return 2
    except TimeUp:
        return TIME_UP
    except KeyboardInterrupt:
        return 130
    return 0


def _end_with_the_first() -> None:
    os.read(sys.stdin.fileno(), 1)  # not through the buffer, whose lock would be held when the interpreter ends
    _thread.interrupt_main()
