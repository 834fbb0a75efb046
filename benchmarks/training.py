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
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

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
    "local": TrainSettings(estimator="local"),
    "flipout": TrainSettings(estimator="flipout"),
    "antithetic, 2 samples": TrainSettings(estimator="antithetic", samples=2),
    "vi, 4 samples": TrainSettings(samples=4),
    "log_expected, 4 samples": TrainSettings(objective="log_expected", samples=4),
}
"""What is timed beside the plain loop. `vi` and `local` have targets."""


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
        net = NETS[name]
        targets = {"vi": net.target} | ({"local": net.local_target} if net.local_target else {})
        batch = net.data(args.batch)
        size = len(batch[1])
        few = batch[0][:16].double(), batch[1][:16]
        _assert_correct(net.make().double(), few, _by_weight_sample, TrainSettings())
        _assert_correct(net.make().double(), few, _by_local_noise, TrainSettings(estimator="local"))
        medians = _interleaved(_steps(net.make, batch), repeats=9 if args.quick else 31)
        ratio = {label: t / medians["deterministic"] for label, t in medians.items()}
        missed |= any(ratio[label] > target for label, target in targets.items())
        took = 1e3 * medians["deterministic"]
        print(f"{name}, batch {size}, {args.threads} thread(s): deterministic step {took:.1f} ms")
        for label in CONFIGURATIONS:
            target = targets.get(label)
            note = f"   target <= {target:.2f}: {'met' if ratio[label] <= target else 'MISSED'}" if target else ""
            print(f"  {label:24s} {ratio[label]:6.3f}{note}")
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


def _assert_correct(
    module: nn.Module, batch: tuple[Tensor, Tensor], outputs: Callable[..., Tensor], settings: TrainSettings
) -> None:
    """The gradients that are timed equal autograd's through plain reparameterisation with the same noise."""
    state = _state(module)
    learner = VI(module, state, Categorical(), settings, _EXAMPLES, ("benchmark",))
    with learner.binding:
        module.train()
        learner.gradients(batch, 0)
    mean, log_std = learner.mean.clone().requires_grad_(), learner.log_std.clone().requires_grad_()
    kept = learner.layout.is_random
    loss = F.cross_entropy(outputs(learner, module, batch[0], mean, log_std.exp() * kept), batch[1])
    kl = ((mean**2 + log_std.exp() ** 2) / (2 * settings.prior_std**2) - 0.5 - log_std)[kept].sum()
    expected = torch.autograd.grad(loss + settings.heat / _EXAMPLES * kl, (mean, log_std))
    for made, by_autograd in zip((learner.sample.mean_grad, learner.sample.log_std_grad), expected, strict=True):
        torch.testing.assert_close(made, by_autograd, rtol=1e-4, atol=1e-6)


def _by_weight_sample(learner: VI, module: nn.Module, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    eps = torch.zeros_like(mean)
    eps[: learner.layout.random_numel] = learner.sample.noise.window(0)
    return functional_call(module, learner.layout.views(mean + std * eps), (x,))


def _by_local_noise(learner: VI, module: nn.Module, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    means, stds = learner.layout.views(mean), learner.layout.views(std)
    spread = {id(means[name]): stds[name] for name in means}
    noise = learner.sample._outputs
    noise.begin(0)

    class Local(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func not in (F.linear, F.conv2d):
                return func(*args, **kwargs)
            x, w, b, *rest = args
            out = func(x, w, b, *rest, **kwargs)
            var = func(x * x, spread[id(w)] ** 2, None if b is None else spread[id(b)] ** 2, *rest, **kwargs)
            eps = torch.cat([part.clone() for _, part in noise.blocks(out.numel())]).view_as(out)
            return out + (var + 1e-300).sqrt() * eps  # so that the root has a derivative where x is 0

    with Local():
        return functional_call(module, means, (x,))


if __name__ == "__main__":
    sys.exit(main())
