"""Timing of training steps on a device, through the public training loop."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import profile

from benchmarks.gpu.job import Job
from tombola.errors import TombolaError
from tombola.settings import TrainSettings
from tombola.training.loop import train

Batch = tuple[Tensor, Tensor]

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "channels_last": {"channels_last": True},
    "bf16": {"precision": "bf16"},
    "bf16 channels_last": {"precision": "bf16", "channels_last": True},
    "bf16 channels_last graphs": {"precision": "bf16", "channels_last": True, "cuda_graphs": True},
    "bf16 channels_last compile": {"precision": "bf16", "channels_last": True, "compile": True},
    "bf16 channels_last compile graphs": {
        "precision": "bf16",
        "channels_last": True,
        "compile": True,
        "cuda_graphs": True,
    },
}
"""Label -> fields of TrainSettings."""

_ONLY_ON_GPU = ("compile", "cuda_graphs")


def available(device: torch.device) -> dict[str, dict[str, Any]]:
    """The configurations that the device has."""
    gpu = device.type == "cuda"
    return {label: how for label, how in CONFIGURATIONS.items() if gpu or not any(name in how for name in _ONLY_ON_GPU)}


def counts(job: Job) -> tuple[int, int]:
    """Steps that are not timed, and that are."""
    return (1, 2) if job.toy else (11, 40)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Repeated:
    """One batch again and again: the steps without the data."""

    def __init__(self, batch: Batch, steps: int):
        self._batch, self.steps, self.examples = batch, steps, 50_000

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        for _ in range(skip, self.steps):
            yield self._batch


def trained_steps(
    job: Job, net: str, settings: TrainSettings, batch: Batch, warm: int, count: int, seen: profile | None = None
) -> dict[str, float]:
    """Seconds a step of `train` and peak bytes on a GPU, over `count` steps after `warm` ones; `seen` profiles those."""
    module, state = job.start(net, settings.method)
    settings = replace(settings, epochs=1, schedule="constant", warmup_epochs=0.0)

    def steps(tick: Callable[[int], None]) -> None:
        batches = Repeated(batch, warm + count)
        train(module, state, batches, settings, stream=("benchmark",), on_step=lambda done, _: tick(done))

    return timed(job.device, warm, count, steps, seen)


def plain_steps(
    job: Job, net: str, batch: Batch, warm: int, count: int, *, precision: str, channels_last: bool, compile: str | None
) -> dict[str, float]:
    """The same of a plain deterministic torch loop, with nothing of ours in it. compile: the mode of torch.compile."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module: nn.Module = job.start(net)[0].to(memory_format=layout).train()
    inputs, targets = batch[0].contiguous(memory_format=layout), batch[1]
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    run: Any = torch.compile(module, mode=compile) if compile else module

    def steps(tick: Callable[[int], None]) -> None:
        for step in range(warm + count):
            optimiser.zero_grad()
            with torch.autocast(job.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                loss = F.cross_entropy(run(inputs), targets)
            loss.backward()
            optimiser.step()
            tick(step + 1)

    return timed(job.device, warm, count, steps)


PLAIN: dict[str, dict[str, Any]] = {
    "plain fp32": {"precision": "fp32", "channels_last": False, "compile": None},
    "plain bf16": {"precision": "bf16", "channels_last": False, "compile": None},
    "plain bf16 channels_last": {"precision": "bf16", "channels_last": True, "compile": None},
    "plain bf16 channels_last compile": {"precision": "bf16", "channels_last": True, "compile": "default"},
    "plain bf16 channels_last compile graphs": {"precision": "bf16", "channels_last": True, "compile": "reduce-overhead"},
}
"""Label -> arguments of `plain_steps`: what a user would write without us."""


def timed(
    device: torch.device,
    warm: int,
    count: int,
    run: Callable[[Callable[[int], None]], Any],
    seen: profile | None = None,
) -> dict[str, float]:
    """`run` calls its argument with the number of steps done after each."""
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


def interleaved(kinds: dict[str, Callable[[], dict[str, float]]], rounds: int) -> dict[str, dict[str, Any]]:
    """Medians over rounds in which every kind has its turn: label -> {seconds, peak_bytes, times}.

    One that fails is left out of the later rounds; it has `failed`, its first line.
    """
    measured: dict[str, list[dict[str, float]]] = {label: [] for label in kinds}
    failed: dict[str, str] = {}
    for _ in range(rounds):
        for label, kind in kinds.items():
            if label in failed:
                continue
            try:
                measured[label].append(kind())
            except (RuntimeError, AssertionError, TombolaError) as error:  # what compilers and graph captures raise
                failed[label] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
                print(f"{label}: failed, {failed[label]}")
    rows: dict[str, dict[str, Any]] = {label: {"failed": why} for label, why in failed.items()}
    for label, found in measured.items():
        if label not in failed:
            times = [one["seconds"] for one in found]
            rows[label] = {"seconds": statistics.median(times), "times": times}
            if "peak_bytes" in found[0]:
                rows[label]["peak_bytes"] = max(one["peak_bytes"] for one in found)
    return rows
