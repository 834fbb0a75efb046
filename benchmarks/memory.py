"""The peak memory of training steps, each configuration in a process of its own.

What comes back is the highest resident memory of the process (Linux's VmHWM) during two steps, less what was resident after
the imports, the data and one small step of another network, which loads the libraries: so the weights, the optimiser's
state, gradients, activations and workspaces. Memory that is freed goes back to the system at once there
(MALLOC_MMAP_THRESHOLD_), so that the peak is of what is in use and not of what the allocator keeps. The processes are forked
from one that has imported torch and computed nothing: as good as new ones, without importing torch for each.
"""

import json
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
    """Of two training steps of each; None where the system does not tell (anywhere but on Linux).

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


def _forked(job: Job) -> str:
    """What a child of this process measures; empty if it fails."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reader)
        status = 1
        try:
            os.write(writer, str(_measured(job)).encode())
            status = 0
        except BaseException as error:
            print(f"{job.label} on {job.net}: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


def _measured(job: Job) -> float:
    import torch

    from benchmarks.nets import NETS, TOY
    from benchmarks.steps import configurations

    torch.set_num_threads(job.threads)
    configuration = configurations()[job.label]
    configuration.step(NETS[TOY], None, job.precision, job.layout)()
    data = NETS[job.net].data(job.batch)
    before = _kilobytes("VmRSS")
    step = configuration.step(NETS[job.net], job.batch, job.precision, job.layout, data)
    for _ in range(2):  # the optimiser's state is there from the first on
        step()
    return (_kilobytes("VmHWM") - before) / 1024


def _kilobytes(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


if __name__ == "__main__":
    import benchmarks.steps  # noqa: F401  # for all children

    found = [_forked(Job(*job)) for job in json.loads(sys.argv[1])]
    print("\n".join(found))
    sys.exit(int(not all(found)))
