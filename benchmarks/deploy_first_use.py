"""Processor seconds of the first `compile` and `compile_moments` of a machine, and of later ones, in new processes."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.record import Row, judged

TARGET = 5.0
_CODE = """
import time, torch
torch.set_num_threads(1)
from benchmarks.tickets import random_ticket
from tombola.deploy import compile, compile_moments
from tombola.deploy.graph import traced
from tombola.models import build
module = build("vgg11", {"width": 16}, (3, 32, 32), 10, ("benchmark",))
x = torch.zeros(16, 3, 32, 32)
ticket = random_ticket(module, 0.05, std=0.1)
traced(module, x)  # torch.export imports much of torch, which is no matter of kernels
for make in (compile, compile_moments):
    began = time.process_time()
    make(ticket, module, x, kernels="sparse")(x)
    print(time.process_time() - began)
"""


def measured() -> Row:
    """Return processor seconds of VGG-11, width 16, and what the first use takes more than the next, with its verdict."""
    with TemporaryDirectory() as folder:
        first, later = _seconds(folder), _seconds(folder)
    found = {
        what: {"first": one, "later": other} for what, one, other in zip(("mean", "moments"), first, later, strict=True)
    }
    for what, took in found.items():
        print(f"{what}: {took['first']:.1f} processor seconds in the first process, {took['later']:.1f} in the next")
    more = sum(first) - sum(later)
    return judged({"seconds": found}, {"first use, mean and moments": more}, {"first use, mean and moments": TARGET})


def _seconds(cache: str) -> list[float]:
    environment = os.environ | {"NUMBA_CACHE_DIR": cache, "TOMBOLA_CACHE": cache}
    command = [sys.executable, "-W", "ignore", "-c", _CODE]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the first use failed: {done.stderr.strip()[-1000:]}")
    return [float(line) for line in done.stdout.split()]
