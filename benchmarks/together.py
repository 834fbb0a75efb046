"""What training several networks together costs over training them one by one.

    python -m benchmarks.together [--quick] [--threads 1 2] [--copies 2 4 8] [--nets mlp conv] [--out FILE]

A whole training step (batch, noise, gradients, fused Adam), in milliseconds for each network, each way in turn; medians.
`one by one` is the networks' trainings one after another; `together` one of the stack; on a GPU `streams` is the networks'
steps with a CUDA stream for each. The losses of the first two are compared. There is no target.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from benchmarks.record import finish, parser
from tombola.data.batches import TensorBatches
from tombola.inference import method_of
from tombola.models import build
from tombola.posterior.layout import Layout
from tombola.posterior.likelihood import Categorical
from tombola.posterior.state import State, initial_state
from tombola.settings import PosteriorSettings, TrainSettings
from tombola.training.loop import train
from tombola.training.optim import optimiser_of
from tombola.training.together import train_together


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


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = parser("together", __doc__)
    arguments.add_argument("--copies", type=int, nargs="+", default=[2, 4, 8], help="networks at once (2 4 8)")
    arguments.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="which networks (all)")
    arguments.add_argument("--methods", nargs="+", choices=("vi", "map"), default=["vi", "map"], help="which methods (both)")
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = arguments.parse_args(argv)
    device, rows = torch.device(args.device), []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for name, method, copies in itertools.product(args.nets, args.methods, args.copies):
            steps, rounds = (6, 1) if args.quick else (15, 3)
            found = _measure(NETS[name], method, copies, device, steps, rounds)
            ratio = {way: seconds / found["one by one"] for way, seconds in found.items()}
            shown = ", ".join(f"{way} {1e3 * seconds:.3f} ms ({ratio[way]:.2f})" for way, seconds in found.items())
            print(f"{name}, {method}, {copies} networks, {threads} thread(s), for a step of each: {shown}", flush=True)
            rows.append(
                {
                    "net": name,
                    "batch": NETS[name].batch,
                    "method": method,
                    "copies": copies,
                    "device": device.type,
                    "threads": threads,
                    "milliseconds": {way: 1e3 * seconds for way, seconds in found.items()},
                    "ratio": ratio,
                    "verdicts": [],
                }
            )
    return finish("together", argv, args.out, rows)


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


def _measure(net: Net, method: str, copies: int, device: torch.device, steps: int, rounds: int) -> dict[str, float]:
    """Seconds a step of one network, by way."""
    module = build(net.model, net.args, net.input_shape, 10, ("benchmark",)).to(device)
    settings = TrainSettings(method=method, epochs=1, batch_size=net.batch)
    states = [_state(module, r, method).to(device) for r in range(copies)]
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((steps * net.batch, *net.input_shape), generator=generator).to(device)
    targets = torch.randint(10, (len(inputs),), generator=generator).to(device)
    batches = [TensorBatches(inputs, targets, net.batch, seed) for seed in range(copies)]
    words = [("benchmark", r) for r in range(copies)]
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        timers, stacked = [_Timer(device) for _ in states], _Timer(device)
        alone = [
            train(module, state, batch, settings, words=w, on_step=timer)
            for state, batch, w, timer in zip(states, batches, words, timers, strict=True)
        ]
        together = train_together(module, states, batches, settings, words=words, on_step=stacked)
        for one, other in zip(alone, together, strict=True):
            torch.testing.assert_close(one.history[0]["loss"], other.history[0]["loss"], rtol=1e-3, atol=1e-3)
        found = {"one by one": statistics.median(t.seconds for t in timers), "together": stacked.seconds / copies}
        if device.type == "cuda":
            found["streams"] = _by_streams(net, settings, states, batches, device, steps)
        for way, seconds in found.items():
            times.setdefault(way, []).append(seconds)
    return {way: statistics.median(seconds) for way, seconds in times.items()}


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
    return state.as_family("point") if method == "map" else state


if __name__ == "__main__":
    sys.exit(main())
