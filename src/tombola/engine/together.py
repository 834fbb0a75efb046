"""Processes that make the steps of each training together: this one runs the stages, the others join their trainings.

They are started at the first training, by Lightning Fabric's DDP. Each has the study's plan, reads the parent's ticket from
the store, and is told by its standard input which training comes next; it closes when this process ends, even by SIGKILL,
and then they end, too. All draw the weight sample of one process, so that outcomes differ from its by the order of sums.
"""

import logging
import math
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tombola.errors import TombolaError
from tombola.study.stages import Outcome, RunContext, Train
from tombola.study.stages.train import join
from tombola.training.checkpoint import Checkpoint, TimeUp
from tombola.training.out_of_memory import keep_freed_memory
from tombola.training.ranks import Fabric

from .folder import StudyFolder
from .local import dataset

_START = "from tombola.engine.together import main; raise SystemExit(main())"
_READY = "ready to train"  # printed by the others: where one fails before it, nobody waits for it to connect
_TRIES = 3  # of a training whose processes are killed
_GRACE = 2.0  # seconds in which the others end by themselves once a training has failed


@dataclass
class _Process:
    """One of the others, and the last line that it has printed."""

    popen: "subprocess.Popen[str]"
    said: str = ""
    came: threading.Event = field(default_factory=threading.Event)
    """Set once it is ready, or has ended."""

    def listen(self) -> None:
        assert self.popen.stdout is not None
        with self.popen.stdout:
            for line in self.popen.stdout:
                if line.strip() == _READY:
                    self.came.set()
                self.said = line.strip() or self.said
        self.popen.wait()
        self.came.set()

    def end(self) -> None:
        """Kill it: it holds nothing that the first process does not hold."""
        self.popen.kill()
        self.popen.wait()
        self.came.wait()
        assert self.popen.stdin is not None
        with suppress(OSError):  # what was written to a process that had died
            self.popen.stdin.close()


class Together:
    """Context in which other processes join the trainings of this one; leaving it ends them."""

    def __init__(self, folder: Path | str, device: torch.device, count: int, say: Callable[[str], None]):
        """Take the place of the study's folder. device: of this process; the others have the GPUs after it, or the CPU.

        count: processes, this one among them. say: called with a sentence where a training begins anew.
        """
        self._folder, self._device, self._count, self._say = str(folder), device, count, say
        self._others: list[_Process] = []
        self._fabric: Fabric | None = None

    def __enter__(self) -> "Together":
        return self

    def __exit__(self, *_: object) -> None:
        for other in self._others:
            other.end()
        if self._fabric is not None:
            torch.distributed.destroy_process_group()
        self._others, self._fabric = [], None

    def train(self, key: str, run: Callable[[Fabric], Outcome]) -> Outcome:
        """Return the outcome of `run`, which makes the training of that key, while the others join it.

        A training whose processes are killed resumes its checkpoint in new ones. Raises what `run` raises, and a
        TombolaError for what another process has failed by.
        """
        for left in reversed(range(_TRIES)):
            try:
                fabric = self._fabric or self._begin()
                self._tell(key)
                return run(fabric)
            except Exception as error:
                codes, said = self._end()
                killed = [signal.Signals(-code).name for code in codes if code < 0]
                if killed and left:
                    self._say(f"a process of a training has died ({killed[0]}); it resumes its checkpoint")
                    continue
                if isinstance(error, TombolaError) or not (killed or said) or said[:1] == [_in_short(error)]:
                    raise
                raise TombolaError(f"another process of this training has failed: {(said or killed)[0]}") from error
            except BaseException:
                self.__exit__()
                raise
        raise AssertionError

    def _begin(self) -> Fabric:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # -P: no module is imported from the working directory, as none is by the `tombola` command
        command = [sys.executable, "-P", "-c", _START, self._folder, str(torch.get_num_threads()), str(port)]
        for rank in range(1, self._count):
            device = self._device if self._device.type == "cpu" else torch.device("cuda", (self._device.index or 0) + rank)
            popen = subprocess.Popen(
                [*command, str(device), str(rank), str(self._count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends them
            )
            self._others.append(_Process(popen))
            threading.Thread(target=self._others[-1].listen, daemon=True).start()
        fabric = fabric_of(0, self._count, self._device, port)
        for other in self._others:
            other.came.wait()
            if other.popen.poll() is not None:
                raise ChildProcessError
        fabric.launch()
        self._fabric = fabric
        return fabric

    def _tell(self, key: str) -> None:
        for other in self._others:
            assert other.popen.stdin is not None
            other.popen.stdin.write(f"{key}\n")
            other.popen.stdin.flush()

    def _end(self) -> tuple[list[int], list[str]]:
        """End the others; return the exit codes of those that had ended by themselves, and what the failed ones said."""
        deadline = time.monotonic() + _GRACE
        while time.monotonic() < deadline and all(other.popen.poll() is None for other in self._others):
            time.sleep(0.02)
        ended = [(other, code) for other in self._others if (code := other.popen.poll()) is not None]
        self.__exit__()
        return [code for _, code in ended], [other.said for other, code in ended if code > 0]


def fabric_of(rank: int, count: int, device: torch.device, port: int) -> Any:
    """Return the fabric of this process, one of `count` on this machine; `launch` waits for the others."""
    try:
        from lightning_fabric import Fabric as Lightning
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy
    except ImportError:
        raise TombolaError("--devices needs Lightning Fabric; install it with: pip install 'tombola[fabric]'") from None
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

    class Here(LightningEnvironment):  # with what is known here in place of environment variables
        creates_processes_externally, main_address, main_port = True, "127.0.0.1", port

        def local_rank(self) -> int:
            return rank

    environment = Here()
    environment.set_world_size(count)
    environment.set_global_rank(rank)
    devices = [device] * count
    if device.type == "cuda":
        devices = [torch.device("cuda", (device.index or 0) - rank + each) for each in range(count)]
    strategy = DDPStrategy(parallel_devices=devices, cluster_environment=environment)
    return Lightning(accelerator=device.type, devices=count, strategy=strategy)


def main() -> int:
    """Run one of the others with folder, threads, port, device, rank and count as arguments; return its exit code."""
    folder, threads, port, device, rank, count = sys.argv[1:]
    keys: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(keys,), daemon=True).start()
    for name in (signal.SIGINT, signal.SIGTERM):  # the first process ends the others
        signal.signal(name, signal.SIG_IGN)
    torch.set_num_threads(int(threads))
    keep_freed_memory()
    try:
        opened = StudyFolder.open(Path(folder))
        stages = {stage.key: stage for stage in opened.plan.stages}
        fabric = fabric_of(int(rank), int(count), torch.device(device), int(port))
        print(_READY, flush=True)
        fabric.launch()
        while True:
            stage = stages[keys.get()]
            assert isinstance(stage, Train)
            # of the others' checkpoints none is written or read
            own = Checkpoint(opened.store.checkpoint_path(stage.key), math.inf)
            context = RunContext(torch.device(device), dataset, own, fabric=fabric)
            join(stage, opened.store.ticket(stage.parents[0].key), context)
    except TimeUp:
        return 0
    except Exception as error:  # of all processes of this training alike, or of this one
        print(_in_short(error), flush=True)
        return 1


def _listen(keys: "queue.SimpleQueue[str]") -> None:
    for line in sys.stdin:
        keys.put(line.strip())
    os._exit(0)  # the first process has ended, maybe within a training


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
