"""Crew of SLURM jobs, submitted through submitit: an array of processes that pull stages, re-queued until none is left.

The jobs need no driver: each takes stages by the store's locks, stops without loss before its time limit, and puts itself
back into the queue. The command that submitted them only watches; it can end, and a later one adds jobs to the same study.
"""

import math
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tombola.data.placement import choose_device
from tombola.errors import TombolaError

from . import TIME_UP
from .folder import StudyFolder
from .pull import pull
from .store import missing

_JOBS, _MINUTES = 4, 55.0  # by default
_AGAIN = 3  # dead jobs in a row without a finished stage, after which no more is submitted
_REQUEUES = 10_000  # of a job whose limit came before its own end
_EVERYWHERE = ("name", "nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "mem_gb", "timeout_min")


class Puller:
    """Job of the array: pulls stages for some minutes; submitit calls it, pickles it and queues it again."""

    def __init__(self, folder: Path, device: str, threads: int, minutes: float, devices: int):
        self._folder, self._device, self._threads, self._minutes = folder, device, threads, minutes
        self._devices = devices

    def __call__(self) -> int:
        """Return the exit code of `pull`; where its time is up, queue the job again by submitit's own signal."""
        device, ends = str(choose_device(self._device)), time.time() + 60 * self._minutes
        code = pull(self._folder, device, self._threads, ends, devices=self._devices)
        if code == TIME_UP and signal.getsignal(signal.SIGUSR2) not in (signal.SIG_DFL, signal.SIG_IGN):
            signal.raise_signal(signal.SIGUSR2)  # its handler calls `checkpoint` and does not return
        return code

    def checkpoint(self) -> Any:
        """Return the job to queue again, before its limit or when it is preempted."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class SlurmJobs:
    """Context in which SLURM jobs run a study's missing stages; they go on when it is left early."""

    time_up = False

    def __init__(
        self,
        folder: StudyFolder,
        device: str,
        threads: int,
        say: Callable[[str], None],
        *,
        jobs: int | None = None,
        minutes: float | None = None,
        devices: int = 1,
        options: Mapping[str, str] | None = None,
    ):
        """Prepare the array.

        device: auto, cpu or cuda, chosen on the node. threads: of each process. jobs: of the array. minutes: after which
        a job stops and is queued again; its time limit is a tenth more. devices: processes at each training of a job, which
        has as many GPUs, or as many times the threads. options: of submitit's `update_parameters`, where
        `partition` stands for `slurm_partition` and so on; `cluster: local` runs the jobs on this machine.
        """
        self._folder, self._say, self._jobs = folder, say, jobs or _JOBS
        minutes = minutes or _MINUTES
        given = dict(options or {})
        self._cluster = given.pop("cluster", None)
        self._options: dict[str, Any] = {
            "name": f"tombola-{folder.raw['name']}".replace("/", "-"),
            "cpus_per_task": threads * devices,
            "timeout_min": math.ceil(1.1 * minutes + 1),
        }
        if device == "cuda":
            self._options["gpus_per_node"] = devices
        for name, value in given.items():
            self._options[name if name in _EVERYWHERE else f"slurm_{name}"] = _number(value)
        self._puller = Puller(folder.path.resolve(), device, threads, minutes, devices)
        self._alive: list[Any] = []
        self._again, self._left = 0, -1

    def __enter__(self) -> "SlurmJobs":
        self._executor = _executor(self._folder.path / "slurm", self._cluster)
        try:
            self._executor.update_parameters(**self._options)
        except (NameError, ValueError, TypeError, AssertionError) as error:
            raise TombolaError(f"--slurm: {' '.join(str(error).split())[:200]}") from None
        with self._executor.batch():
            self._alive = [self._executor.submit(self._puller) for _ in range(self._jobs)]
        ids = ", ".join(job.job_id for job in self._alive)
        self._say(f"submitted {self._jobs} jobs ({ids}); their logs are in {self._folder.path / 'slurm'}")
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is not None and self._alive:
            ids = " ".join(job.job_id for job in self._alive)
            self._say(f"jobs {ids} go on without this command; 'tombola status {self._folder.path} --watch' shows them")

    def at_work(self) -> bool:
        """Return whether any job waits or runs. One that has died is submitted again, unless nothing is gained by it."""
        for job in [job for job in self._alive if job.done()]:
            self._alive.remove(job)
            if (error := job.exception()) is None:
                if code := job.result():
                    self._say(f"job {job.job_id} has ended with exit code {code}; see {job.paths.stderr}")
                continue
            left = len(missing(self._folder.plan, self._folder.store))
            self._again = self._again + 1 if left == self._left else 0
            self._left = left
            goes_on = left > 0 and self._again < _AGAIN
            then = "is submitted again" if goes_on else "is given up"
            self._say(f"job {job.job_id} has died and {then} ({type(error).__name__}; see {job.paths.stderr})")
            if goes_on:
                self._alive.append(self._executor.submit(self._puller))
        return bool(self._alive)


def _executor(logs: Path, cluster: str | None) -> Any:
    try:
        import submitit
    except ImportError:
        raise TombolaError("--engine slurm needs submitit; install it with: pip install 'tombola[slurm]'") from None
    if cluster is None and shutil.which("srun") is None:  # submitit would run the jobs here without a word
        raise TombolaError("--engine slurm: there is no srun on this machine; run it on a login node, or try cluster=local")
    if cluster not in (None, "local", "slurm"):
        raise TombolaError(f"--slurm cluster={cluster}: it is local or slurm")
    often = {"slurm_max_num_timeout": _REQUEUES, "local_max_num_timeout": _REQUEUES}
    return submitit.AutoExecutor(folder=logs, cluster=cluster, **often)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
