"""The floor of a step, from the ceilings of the device and the work of the step, and the gap of measured steps to it."""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import timing
from benchmarks.gpu.job import Job
from tombola import streams
from tombola.settings import TrainSettings

_WORD = 4  # bytes of a float32


def floors(job: Job, net: str) -> dict[str, Any]:
    """Print and return the device's ceilings, and the net's floor, measured steps, launches and kernels; no target."""
    top = ceilings(job)
    print("  ".join(f"{name}: {value:.3g}" for name, value in top.items()))
    row = _net(job, net, top)
    print(f"{net}, batch {row['batch']}: {row['flop'] / 1e9:.3g} GFLOP a step")
    for label, found in row["steps"].items():
        floor, took = row["floor"][found["arm"]], found["seconds"]
        print(
            f"  {label}: {1e3 * took:.2f} ms, floor {1e3 * floor:.3f} ms, gap {took / floor:.1f}x, device busy "
            f"{1e3 * found['busy']:.2f} ms, {found['launches']:.0f} launches of {found['kernels']:.0f} kernels"
        )
        for kernel in found["top"]:
            print(f"    {1e6 * kernel['seconds']:9.1f} us  x{kernel['calls']:<5.0f} {kernel['name'][:90]}")
    return {"ceilings": top, **row}


def ceilings(job: Job) -> dict[str, float]:
    """Return median FLOP/s of large matrix products of random numbers, and bytes/s of a copy (read and written)."""
    n, numel = (64, 1 << 16) if job.toy else (8192, 1 << 28)
    stream = streams.generator("benchmark", device=job.device)
    a, b = (torch.randn(n, n, generator=stream, device=job.device) for _ in range(2))
    source = torch.randn(numel, generator=stream, device=job.device)
    target = torch.empty_like(source)
    found = {"fp32_flop_per_s": 2 * n**3 / _median(job, lambda: a @ b)}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        found["tf32_flop_per_s"] = 2 * n**3 / _median(job, lambda: a @ b)
    finally:
        torch.set_float32_matmul_precision(before)
    half_a, half_b = a.bfloat16(), b.bfloat16()
    found["bf16_flop_per_s"] = 2 * n**3 / _median(job, lambda: half_a @ half_b)
    found["bytes_per_s"] = 2 * numel * _WORD / _median(job, lambda: target.copy_(source))
    return found


def bytes_of(parameters: int, random: int) -> dict[str, int]:
    """Return the fewest bytes through memory for Adam and the weight sample, each tensor read or written once a use.

    Adam: value, gradient and two moments read, all but the gradient written. A weight sample: mean, log_std and noise read,
    theta written; its gradients: gradient, noise, log_std and mean read, two gradients written.
    """
    return {
        "adam_map": 7 * _WORD * parameters,
        "adam_vi": 7 * _WORD * (parameters + random),
        "weight_sample": (4 + 6) * _WORD * random,
    }


def _net(job: Job, net: str, top: dict[str, float]) -> dict[str, Any]:
    batch = job.batch(job.settings(net).batch_size)
    module, state = job.start(net)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(module(batch[0]), batch[1]).backward()
    layout = state.posterior.layout
    moved = bytes_of(layout.numel, layout.random_numel)
    flop = counter.get_total_flops()
    compute = flop / max(value for name, value in top.items() if name != "bytes_per_s")
    floor = {
        "map": compute + moved["adam_map"] / top["bytes_per_s"],
        "vi": compute + (moved["adam_vi"] + moved["weight_sample"]) / top["bytes_per_s"],
    }
    found = {}
    for label, changes in timing.available(job.device).items():
        for arm in ("map", "vi"):
            one = job.settings(net, method=arm, **changes)
            timed = timing.trained_steps(job, net, one, batch)
            found[f"{arm} | {label}"] = {"arm": arm, **timed, **_kernels(job, net, one, batch)}
    return {"batch": len(batch[1]), "flop": flop, "bytes": moved, "floor": floor, "steps": found}


def _kernels(job: Job, net: str, settings: TrainSettings, batch: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """Return launches and kernels a step, busy seconds and the top ten, by a profile of a few steps of `train`."""
    steps = timing.counts(job)[1]
    gpu = job.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    seen = profile(activities=activities)
    timing.trained_steps(job, net, settings, batch, seen)
    spent: dict[str, list[float]] = {}
    launches = 0
    for event in seen.events() or ():
        launches += event.name.startswith(("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch"))
        on_device = event.device_type == torch.autograd.DeviceType.CUDA
        if on_device if gpu else event.name.startswith("aten::"):
            micro = event.self_device_time_total if gpu else event.self_cpu_time_total
            spent.setdefault(event.name, []).append(micro)
    total = {name: sum(times) for name, times in spent.items()}
    return {
        "launches": launches / steps,
        "kernels": sum(map(len, spent.values())) / steps,
        "busy": 1e-6 * sum(total.values()) / steps,
        "top": [
            {"name": name, "seconds": 1e-6 * total[name] / steps, "calls": len(spent[name]) / steps}
            for name in sorted(total, key=lambda name: -total[name])[:10]
        ],
    }


def _median(job: Job, run: Callable[[], Any]) -> float:
    times = [timing.seconds(job.device, run) for _ in range(12)]
    return statistics.median(times[2:])
