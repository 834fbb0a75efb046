"""The peak memory of training steps, each configuration in a process of its own.

A peak is the highest resident memory of the process (Linux's VmHWM) during two steps, less the memory after the imports, the
data and one small step of another network, which loads the libraries: so the weights, the optimiser's state, gradients,
activations and workspaces. It is never less than what the process still holds of its own after the steps: where memory is
short, the system takes back pages of libraries meanwhile, and the difference of two resident sizes misses as much. Freed
memory goes back to the system at once there (MALLOC_MMAP_THRESHOLD_), so that the peak is of memory in use, not of memory
that the allocator keeps. The processes are forked from one that has imported torch and computed nothing: as good as new
ones, without importing torch for each.
"""

import ctypes
import gc
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
_STATUS = Path("/proc/self/status")


class Job(NamedTuple):
    """One configuration of `benchmarks.steps` on one network."""

    net: str
    label: str
    batch: int | None
    precision: str
    layout: str
    threads: int


def peak_megabytes(jobs: Sequence[Job]) -> list[float] | None:
    """Return the peak of two training steps of each job; None where the system does not report it (only Linux does).

    Raises RuntimeError if a process fails.
    """
    if not _STATUS.exists():
        return None
    # read from VmHWM: ru_maxrss would not do, a process inherits it from the one that starts it
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", json.dumps(jobs)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring memory failed: {done.stderr.strip()[-1000:]}")
    return [float(line) for line in done.stdout.splitlines()]


def _measured(job: Job) -> float:
    import torch

    from benchmarks.nets import NETS, TOY
    from benchmarks.steps import configurations

    torch.set_num_threads(job.threads)
    configuration = configurations()[job.label]
    configuration.step(NETS[TOY], None, job.precision, job.layout)()
    data = NETS[job.net].data(job.batch)
    # what was freed after this reading would count against the steps: garbage, and freed memory that malloc still holds
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    before, own = _kilobytes("VmRSS"), _kilobytes("RssAnon")
    step = configuration.step(NETS[job.net], job.batch, job.precision, job.layout, data)
    for _ in range(2):  # the optimiser's state is there from the first on
        step()
    return max(_kilobytes("VmHWM") - before, _kilobytes("RssAnon") - own) / 1024


def _kilobytes(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


if __name__ == "__main__":
    import benchmarks.steps  # noqa: F401  # for all children

    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for job in [Job(*each) for each in json.loads(sys.argv[1])]:
            try:
                print(pool.apply(_measured, [job]))
            except Exception as error:
                sys.exit(f"{job.label} on {job.net}: {type(error).__name__}: {error}")
