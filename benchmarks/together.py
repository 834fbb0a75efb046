"""What training several networks together costs over training them one by one.

    python -m benchmarks.together [--quick] [--threads N] [--copies 2 4 8] [--nets mlp conv] [--out FILE]

A whole training step (batch, noise, gradients, fused Adam), in seconds for each network. `one by one` is the networks'
trainings in turn; `together` one of the stack; on a GPU `streams` is the networks' steps with a CUDA stream for each. The
losses of the first two are compared.
"""

import argparse
import itertools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tombola.batches import TensorBatches
from tombola.inference import method_of
from tombola.models import build
from tombola.optim import optimiser_of
from tombola.posterior.layout import Layout
from tombola.posterior.likelihood import Categorical
from tombola.posterior.state import State, initial_state
from tombola.settings import PosteriorSettings, TrainSettings
from tombola.together import train_together
from tombola.training import train


@dataclass(frozen=True)
class Net:
    """A small network, as studies of many seeds train it."""

    model: str
    args: dict[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, ...] = (3, 16, 16)
    batch: int = 64


NETS = {
    "mlp": Net("mlp", {"hidden": [300, 100]}, (1, 8, 8)),
    "conv": Net("conv", {"widths": [16, 32], "batch_norm": True}),
    "vit": Net("vit", {"patch": 4, "depth": 2, "dim": 48, "heads": 3, "head": 16}),
    "resnet20": Net("resnet20", input_shape=(3, 32, 32), batch=128),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, and no resnet20")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    parser.add_argument("--copies", type=int, nargs="+", default=[2, 4, 8], help="networks at once (2 4 8)")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="which networks (all)")
    parser.add_argument("--methods", nargs="+", choices=("vi", "map"), default=["vi", "map"], help="which methods (both)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="write a JSON record here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, rows = torch.device(args.device), []
    for name in [n for n in args.nets if not (args.quick and n == "resnet20")]:
        for method in args.methods:
            for copies in args.copies:
                seconds = _measure(NETS[name], method, copies, device, steps=6 if args.quick else 30)
                alone = seconds["one by one"]
                shown = ", ".join(f"{way} {1e3 * s:.3f} ms ({s / alone:.2f})" for way, s in seconds.items())
                print(f"{name}, {method}, {copies} networks, for a step of each: {shown}", flush=True)
                rows.append({"net": name, "method": method, "copies": copies, "seconds_of_each": seconds})
    if args.out:
        record = {
            "command": "python -m benchmarks.together " + " ".join(sys.argv[1:]),
            "date": datetime.now(UTC).date().isoformat(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "machine": platform.machine(),
            "threads": args.threads,
            "rows": rows,
        }
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


class _Timer:
    """The median time between steps, but for the first two, of a training that ends after so many."""

    def __init__(self, device: torch.device):
        self._device, self._marks = device, list[float]()

    def __call__(self, done: int, total: int) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._marks.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return statistics.median(b - a for a, b in itertools.pairwise(self._marks[1:]))


def _measure(net: Net, method: str, copies: int, device: torch.device, steps: int) -> dict[str, float]:
    """Seconds a step of one network, by way."""
    module = build(net.model, net.args, net.input_shape, 10, ("benchmark",)).to(device)
    settings = TrainSettings(method=method, epochs=1, batch_size=net.batch)
    states = [_state(module, r, method).to(device) for r in range(copies)]
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((steps * net.batch, *net.input_shape), generator=generator).to(device)
    targets = torch.randint(10, (len(inputs),), generator=generator).to(device)
    batches = [TensorBatches(inputs, targets, net.batch, seed) for seed in range(copies)]
    words = [("benchmark", r) for r in range(copies)]

    timers = [_Timer(device) for _ in states]
    alone = [
        train(module, state, batch, settings, words=w, on_step=timer)
        for state, batch, w, timer in zip(states, batches, words, timers, strict=True)
    ]
    stacked = _Timer(device)
    together = train_together(module, states, batches, settings, words=words, on_step=stacked)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.history[0]["loss"], other.history[0]["loss"], rtol=1e-3, atol=1e-3)
    found = {"one by one": statistics.median(t.seconds for t in timers), "together": stacked.seconds / copies}
    if device.type == "cuda":
        found["streams"] = _by_streams(net, settings, states, batches, device, steps)
    return found


def _by_streams(
    net: Net, settings: TrainSettings, states: list[State], batches: list[TensorBatches], device: torch.device, steps: int
) -> float:
    """Seconds a step of one network where each has a stream of its own."""
    streams = [torch.cuda.Stream(device) for _ in states]
    with ExitStack() as stack:
        runs: list[Callable[[Any, int], None]] = []
        for r, state in enumerate(states):
            module = build(net.model, net.args, net.input_shape, 10, ("benchmark",)).to(device)
            likelihood: nn.Module = Categorical()
            learner = method_of(settings.method)(module, state, likelihood, settings, batches[r].examples, ("benchmark", r))
            optimiser = optimiser_of(learner, likelihood, settings)
            stack.enter_context(learner.binding)

            def run(batch: Any, step: int, learner: Any = learner, optimiser: Any = optimiser) -> None:
                learner.gradients(batch, step)
                optimiser.step()

            runs.append(run)
        torch.cuda.synchronize(device)
        marks = []
        for step, those in enumerate(zip(*(b.epoch(0) for b in batches), strict=True)):
            for stream, run, batch in zip(streams, runs, those, strict=True):
                stream.wait_stream(torch.cuda.current_stream(device))
                with torch.cuda.stream(stream):
                    run(batch, step)
            torch.cuda.synchronize(device)
            marks.append(time.perf_counter())
        return statistics.median(b - a for a, b in itertools.pairwise(marks[1:])) / len(states)


def _state(module: nn.Module, seed: int, method: str) -> State:
    state = initial_state(module, Layout.of(module), PosteriorSettings(), seed)
    return state.as_point() if method == "map" else state


if __name__ == "__main__":
    sys.exit(main())
