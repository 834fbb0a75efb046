"""What a variational training step costs over a deterministic one.

    python -m benchmarks.training [--quick] [--threads N] [--nets resnet20 vit_tiny]

Every configuration is interleaved in one process; medians; each is the whole step (gradients, fused Adam). The deterministic
one is a plain torch loop, not ours. Before anything is timed, its gradients are compared with autograd's. Exit code 1 when a
target is missed.
"""

import argparse
import contextlib
import ctypes
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from benchmarks.nets import NETS
from tombola.inference import METHODS, VI, Learner
from tombola.optim import optimiser_of
from tombola.posterior.layout import Layout
from tombola.posterior.likelihood import Categorical
from tombola.posterior.state import State, initial_state
from tombola.settings import PosteriorSettings, TrainSettings

_EXAMPLES = 50_000

CONFIGURATIONS = {
    "map": TrainSettings(method="map"),
    "vi": TrainSettings(),
    "vi, 10 samples": TrainSettings(samples=10),
}
"""What is timed beside the plain loop. The targets are those of `vi`."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="which networks (all)")
    parser.add_argument("--batch", type=int, help="examples a step (by default each network's own)")
    parser.add_argument("--out", type=Path, help="write a JSON record here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    _keep_freed_memory()
    rows, missed = [], False
    for name in args.nets:
        net, target = NETS[name], NETS[name].target
        batch = net.data(args.batch)
        size = len(batch[1])
        _assert_correct(net.make().double(), (batch[0][:16].double(), batch[1][:16]))
        medians = _interleaved(_steps(net.make, batch), repeats=9 if args.quick else 31)
        ratio = {label: t / medians["deterministic"] for label, t in medians.items()}
        hit = ratio["vi"] <= target
        missed |= not hit
        took = 1e3 * medians["deterministic"]
        print(f"{name}, batch {size}, {args.threads} thread(s): deterministic step {took:.1f} ms")
        for label in CONFIGURATIONS:
            note = f"   target <= {target:.2f}: {'met' if hit else 'MISSED'}" if label == "vi" else ""
            print(f"  {label:15s} {ratio[label]:6.3f}{note}")
        milliseconds = {label: 1e3 * t for label, t in medians.items()}
        rows.append({"net": name, "batch": size, "milliseconds": milliseconds, "ratio": ratio})
    if args.out:
        record = {
            "command": "python -m benchmarks.training " + " ".join(sys.argv[1:]),
            "date": datetime.now(UTC).date().isoformat(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "machine": platform.machine(),
            "threads": args.threads,
            "rows": rows,
        }
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    return int(missed)


def _keep_freed_memory() -> None:
    """Keeps glibc from giving freed memory back to the system between steps.

    Otherwise the page faults of fetching it again fall on one configuration or another, by the order of allocations: up to
    15% of a convolutional step, more than what is measured here.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD


def _steps(factory: Callable[[], nn.Module], batch: tuple[Tensor, Tensor]) -> dict[str, Callable[[], None]]:
    """What is timed, by name; each call is one whole training step."""
    module = factory()
    optimiser = torch.optim.Adam(module.parameters(), fused=True)

    def deterministic() -> None:
        optimiser.zero_grad()
        F.cross_entropy(module(batch[0]), batch[1]).backward()
        optimiser.step()

    ours = {label: _step_of(factory(), settings, batch) for label, settings in CONFIGURATIONS.items()}
    return {"deterministic": deterministic} | ours


def _step_of(module: nn.Module, settings: TrainSettings, batch: tuple[Tensor, Tensor]) -> Callable[[], None]:
    state, likelihood = _state(module), Categorical()
    start = state if settings.method == "vi" else state.as_point()
    learner: Learner = METHODS[settings.method](module, start, likelihood, settings, _EXAMPLES, ("benchmark",))
    optimiser, step = optimiser_of(learner, likelihood, settings), 0
    learner.binding.__enter__()  # stays bound, as during a training
    module.train()

    def run() -> None:
        nonlocal step
        learner.gradients(batch, step)
        optimiser.step()
        step += 1

    return run


def _state(module: nn.Module) -> State:
    return initial_state(module, Layout.of(module), PosteriorSettings(), 0)


def _interleaved(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turn; slow ones in fewer rounds."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(-2, repeats):  # two rounds to warm up
        for name, step in steps.items():
            if "samples" in name and round_ % 5:
                continue
            began = time.perf_counter()
            step()
            if round_ >= 0:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def _assert_correct(module: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """The gradients that are timed equal autograd's through plain reparameterisation with the same noise."""
    state = _state(module)
    settings = TrainSettings()
    learner = VI(module, state, Categorical(), settings, _EXAMPLES, ("benchmark",))
    with learner.binding:
        module.train()
        learner.gradients(batch, 0)
        eps = torch.zeros_like(learner.mean)
        eps[: learner.layout.random_numel] = learner.sample.noise.window(0)
    mean, log_std = learner.mean.clone().requires_grad_(), learner.log_std.clone().requires_grad_()
    std = log_std.exp() * learner.layout.is_random
    weights = learner.layout.views(mean + std * eps)
    loss = F.cross_entropy(functional_call(module, weights, (batch[0],)), batch[1])
    kept = learner.layout.is_random
    kl = ((mean**2 + std**2) / (2 * settings.prior_std**2) - 0.5 - log_std)[kept].sum()
    (loss + settings.heat / _EXAMPLES * kl).backward()
    n = learner.layout.random_numel
    for made, expected in (
        (learner.sample.mean_grad, mean.grad),
        (learner.sample.log_std_grad[:n], log_std.grad[:n] if log_std.grad is not None else None),
    ):
        assert expected is not None
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-6)  # the likelihood computes in float32


if __name__ == "__main__":
    sys.exit(main())
