"""Timing of training steps on a device, through the public training loop."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import profile

from benchmarks.gpu.job import Job
from benchmarks.peers import autograd_step
from tombola.settings import TrainSettings
from tombola.training.loop import train

Batch = tuple[Tensor, Tensor]
Measured = dict[str, float]
"""`seconds` a step and, on a GPU, `peak_bytes`."""

_FAST: dict[str, Any] = {"precision": "bf16", "channels_last": True}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "channels_last": {"channels_last": True},
    "bf16": {"precision": "bf16"},
    "bf16 channels_last": _FAST,
    "bf16 channels_last graphs": _FAST | {"cuda_graphs": True},
    "bf16 channels_last compile": _FAST | {"compile": True},
    "bf16 channels_last compile graphs": _FAST | {"compile": True, "cuda_graphs": True},
}
"""Label -> fields of TrainSettings."""

_ONLY_ON_GPU = ("compile", "cuda_graphs")


def available(device: torch.device) -> dict[str, dict[str, Any]]:
    """Return the configurations that the device has."""
    gpu = device.type == "cuda"
    return {label: how for label, how in CONFIGURATIONS.items() if gpu or not any(name in how for name in _ONLY_ON_GPU)}


def counts(job: Job) -> tuple[int, int]:
    """Return the numbers of steps to warm up and to time."""
    return (1, 2) if job.toy else (11, 40)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, run: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    synchronize(device)
    began = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - began


class Repeated:
    """One batch again and again, to time steps without their data."""

    def __init__(self, batch: Batch, steps: int):
        self._batch, self.steps, self.examples = batch, steps, 50_000

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        for _ in range(skip, self.steps):
            yield self._batch


def trained_steps(job: Job, net: str, settings: TrainSettings, batch: Batch, seen: profile | None = None) -> Measured:
    """Return seconds a step of `train` and, on a GPU, peak bytes; `seen` profiles the timed steps."""
    warm, count = counts(job)
    count = max(1, count // settings.samples)
    module, state = job.start(net, settings.method)
    settings = replace(settings, epochs=1, schedule="constant", warmup_epochs=0.0)

    def steps(tick: Callable[[int], None]) -> None:
        batches = Repeated(batch, warm + count)
        train(module, state, batches, settings, stream=("benchmark",), on_step=lambda done, _: tick(done))

    return _timed(job.device, warm, count, steps, seen)


def plain_steps(
    job: Job, net: str, batch: Batch, *, precision: str = "bf16", channels_last: bool = True, compile: str | None = None
) -> Measured:
    """Return the same of a plain deterministic torch loop, with nothing of ours. compile: the mode of torch.compile."""
    warm, count = counts(job)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module: nn.Module = job.start(net)[0].to(memory_format=layout).train()
    inputs, targets = batch[0].contiguous(memory_format=layout), batch[1]
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    run: Any = torch.compile(module, mode=compile) if compile else module
    step = autograd_step(
        optimiser, precision, lambda: run(inputs), lambda out: F.cross_entropy(out, targets), job.device.type
    )

    def steps(tick: Callable[[int], None]) -> None:
        for done in range(1, warm + count + 1):
            step()
            tick(done)

    return _timed(job.device, warm, count, steps)


PLAIN: dict[str, dict[str, Any]] = {
    "plain fp32": {"precision": "fp32", "channels_last": False},
    "plain bf16": {"channels_last": False},
    "plain bf16 channels_last": {},
    "plain bf16 channels_last compile": {"compile": "default"},
    "plain bf16 channels_last compile graphs": {"compile": "reduce-overhead"},
}
"""Label -> arguments of `plain_steps`: the loops that a user would write without us."""


def _timed(
    device: torch.device, warm: int, count: int, run: Callable[[Callable[[int], None]], Any], seen: profile | None = None
) -> Measured:
    """Time the `count` steps after `warm` ones; `run` calls its argument with the number of steps done after each."""
    times: dict[int, float] = {}

    def tick(done: int) -> None:
        if done == warm:
            synchronize(device)
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            if seen:
                seen.start()
            times[done] = time.perf_counter()
        elif done == warm + count:
            synchronize(device)
            times[done] = time.perf_counter()
            if seen:
                seen.stop()

    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    run(tick)
    found = {"seconds": (times[warm + count] - times[warm]) / count}
    if device.type == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated(device) - held
    return found
