"""Timing of training steps on a device, through the public training loop."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.profiler import profile

from benchmarks.gpu.nets import Job, Recipe
from tombola.errors import TombolaError
from tombola.inference import VI, method_of
from tombola.posterior.likelihood import Categorical
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


def available(device: torch.device, say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """The configurations that the device has; `say` gets a line for each other one."""
    found = {}
    for label, changes in CONFIGURATIONS.items():
        gpu = [name for name in _ONLY_ON_GPU if name in changes]
        if gpu and device.type != "cuda":
            say(f"{label}: skipped, {gpu[0]} is measured on a GPU")
        else:
            found[label] = changes
    return found


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def batch_for(job: Job, size: int) -> Batch:
    """One batch of normalised images and labels on the device."""
    rows = torch.arange(size) % len(job.data.train[0])
    inputs, targets = (part[rows].to(job.device) for part in job.data.train)
    return job.data.prepare(inputs), targets


class Repeated:
    """One batch again and again: the steps without the data."""

    def __init__(self, batch: Batch, steps: int):
        self._batch, self.steps, self.examples = batch, steps, 50_000

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        for _ in range(skip, self.steps):
            yield self._batch


def trained_steps(
    job: Job, net: str, recipe: Recipe, batch: Batch, warm: int, count: int, seen: profile | None = None
) -> dict[str, float]:
    """Seconds a step of `train` and peak bytes on a GPU, over `count` steps after `warm` ones; `seen` profiles those."""
    module = job.module(net)
    state = job.state(module, recipe)
    settings = replace(recipe.train, epochs=1, schedule="constant")
    state = state.as_family(method_of(settings.method).learns)
    return timed(
        job.device,
        warm,
        count,
        lambda tick: train(
            module, state, Repeated(batch, warm + count), settings, words=("benchmark",), on_step=lambda done, _: tick(done)
        ),
        seen,
    )


def plain_steps(
    job: Job, net: str, batch: Batch, warm: int, count: int, *, precision: str, channels_last: bool, compile: str | None
) -> dict[str, float]:
    """The same of a plain deterministic torch loop, with nothing of ours in it. compile: the mode of torch.compile."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module: nn.Module = job.module(net).to(memory_format=layout).train()
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


def interleaved(
    kinds: dict[str, Callable[[], dict[str, float]]], rounds: int, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
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
                say(f"{label}: failed, {failed[label]}")
    rows: dict[str, dict[str, Any]] = {label: {"failed": why} for label, why in failed.items()}
    for label, found in measured.items():
        if label not in failed:
            times = [one["seconds"] for one in found]
            rows[label] = {"seconds": statistics.median(times), "times": times}
            if "peak_bytes" in found[0]:
                rows[label]["peak_bytes"] = max(one["peak_bytes"] for one in found)
    return rows


def assert_correct(job: Job, net: str) -> None:
    """On the device, in float64: a variational step's gradients equal autograd's through mean + std * noise."""
    module = job.module(net).double()
    batch = batch_for(job, 8)
    batch = batch[0].double(), batch[1]
    settings, examples = TrainSettings(), 50_000
    learner = VI(module, job.state(module, Recipe()), Categorical(), settings, examples, ("benchmark",))
    with learner.binding:
        module.train()
        learner.gradients(batch, 0)
        theta = learner.sample.theta.clone()
    made = [p.grad for group in learner.groups() for p in group["params"]]
    mean, log_std = learner.mean.clone().requires_grad_(), learner.log_std.clone().requires_grad_()
    kept = learner.layout.is_random.to(job.device)
    noise = torch.where(kept, (theta - learner.mean) / learner.log_std.exp(), 0.0)
    weights = mean + log_std.exp() * noise
    loss = F.cross_entropy(functional_call(module, learner.layout.views(weights), (batch[0],)), batch[1])
    kl = ((mean**2 + log_std.exp() ** 2) / (2 * settings.prior_std**2) - 0.5 - log_std)[kept].sum()
    expected = torch.autograd.grad(loss + settings.heat / examples * kl, (mean, log_std))
    parts = [expected[0][where] for where, _ in learner.layout.decay_groups()]
    for ours, autograd in zip(made, [*parts, expected[1][: learner.layout.random_numel]], strict=True):
        torch.testing.assert_close(ours, autograd, rtol=1e-4, atol=1e-6)
