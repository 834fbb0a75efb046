"""The price of a Bayesian step: each method's fastest configuration over the fastest deterministic one."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from benchmarks.gpu import timing
from benchmarks.gpu.nets import Job, Recipe
from benchmarks.gpu.sitting import Row, Sitting
from tombola.settings import TrainSettings

ARMS: dict[str, dict[str, Any]] = {
    "map": {"method": "map"},
    "vi": {"method": "vi"},
    "vi, 10 samples": {"method": "vi", "samples": 10},
    "local": {"method": "vi", "estimator": "local"},
    "ivon": {"method": "ivon"},
}
"""Label -> fields of TrainSettings."""

TARGETS = {"vi": 1.10, "ivon": 1.10}

REFERENCE = "plain bf16 channels_last"
"""What is timed beside each configuration, in turn, so that rows of several sittings are comparable."""

_PLAIN = "plain"
_MINUTES, _MINUTES_COMPILED = 1.0, 5.0  # that a row may take; each round compiles anew


def steps(job: Job, sitting: Sitting) -> bool:
    """Prints ratios, images a second, peak memory; returns whether a target is missed. A row is one configuration."""
    missed = False
    configurations = timing.available(job.device, sitting.say)
    for net in job.nets:
        about = sitting.row(net, partial(_correct, job, net), needs=0 if job.toy else _MINUTES)
        for label, run in _kinds(job, net, configurations).items():
            _row(job, sitting, net, label, run)
        found = summary(sitting.rows, net)
        plain = found["deterministic"]
        if plain is None:
            sitting.say(f"{net}: no deterministic step could be measured")
            continue
        sitting.say(f"{net}, batch {about['batch']}: deterministic {1e3 * plain['seconds']:.2f} ms ({plain['label']})")
        for arm, best in found["arms"].items():
            target = TARGETS.get(arm)
            verdict = job.verdict(f"<= {target:.2f}", best["ratio"] <= target) if target else ""
            sitting.say(f"  {arm:16s} {_line(best, about['batch'])}{verdict}")
            missed |= target is not None and best["ratio"] > target
    return missed


def summary(rows: Mapping[str, Row], net: str) -> dict[str, Any]:
    """Of a net's rows the fastest deterministic one (None if there is none), and for each arm the fastest with its `ratio`.

    Each is compared by its `relative`, the time over that of the reference beside it.
    """
    own = {name.removeprefix(f"{net} | "): row for name, row in rows.items() if name.startswith(f"{net} | ")}
    done = {label: row for label, row in own.items() if "relative" in row}

    def fastest(*prefixes: str) -> dict[str, Any] | None:
        some = [label for label in done if label.startswith(prefixes)]
        label = min(some, key=lambda name: done[name]["relative"], default=None)
        return None if label is None else {"label": label, **done[label]}

    plain, arms = fastest(_PLAIN, "map | "), {}
    if plain is not None:
        for arm in ARMS:
            if (best := fastest(f"{arm} | ")) is not None:
                configuration = best["label"].partition(" | ")[2]
                arms[arm] = best | {"label": configuration, "ratio": best["relative"] / plain["relative"]}
    return {"deterministic": plain, "arms": arms}


def fastest_of(rows: Mapping[str, Row], net: str, arm: str) -> dict[str, Any]:
    """The configuration (fields of TrainSettings) that was fastest for the arm; before that is known bf16, channels_last."""
    found = summary(rows, net)["arms"].get(arm, {})
    return timing.CONFIGURATIONS[found.get("label", "bf16 channels_last")]


def _correct(job: Job, net: str) -> Row:
    timing.assert_correct(job, net)
    return {"batch": job.batch_of(net), "parameters": sum(p.numel() for p in job.module(net).parameters())}


def _kinds(
    job: Job, net: str, configurations: dict[str, dict[str, Any]]
) -> dict[str, Callable[[timing.Batch], dict[str, float]]]:
    """By label: seconds of a step on a batch."""
    warm, count = _counts(job)
    kinds: dict[str, Callable[[timing.Batch], dict[str, float]]] = {}
    for label, arguments in timing.PLAIN.items():
        if arguments["compile"] is None or job.device.type == "cuda":
            kinds[label] = lambda batch, a=arguments: timing.plain_steps(job, net, batch, warm, count, **a)
    for arm, fields in ARMS.items():
        for label, changes in configurations.items():
            train = dataclasses.replace(TrainSettings(), **fields, **changes)
            if train.estimator == "local" and (train.compile or train.cuda_graphs):
                continue  # it has to see the operations one by one
            one, few = dataclasses.replace(Recipe(), train=train), max(1, count // train.samples)
            kinds[f"{arm} | {label}"] = lambda batch, o=one, n=few: timing.trained_steps(job, net, o, batch, warm, n)
    return kinds


def _row(job: Job, sitting: Sitting, net: str, label: str, run: Callable[[timing.Batch], dict[str, float]]) -> Row:
    """One configuration in turn with the reference."""
    name, compiled = f"{net} | {label}", "compile" in label

    def measure() -> Row:
        if compiled:
            torch.compiler.reset()  # torch stops compiling one network anew after a few times
        (warm, count), rounds = _counts(job), 2 if job.toy else 5
        batch = timing.batch_for(job, job.batch_of(net))
        kinds = {
            "the reference": lambda: timing.plain_steps(job, net, batch, warm, count, **timing.PLAIN[REFERENCE]),
            name: lambda: run(batch),
        }
        found = timing.interleaved(kinds, rounds, sitting.say)
        own, beside = found[name], found["the reference"]
        if "failed" in own or "failed" in beside:
            return {"failed": own.get("failed") or f"the reference: {beside['failed']}"}
        return {**own, "reference": beside, "relative": own["seconds"] / beside["seconds"]}

    return sitting.row(name, measure, needs=0 if job.toy else _MINUTES_COMPILED if compiled else _MINUTES)


def _counts(job: Job) -> tuple[int, int]:
    """Steps that are not timed, and that are."""
    return (1, 2) if job.toy else (11, 40)


def _line(found: dict[str, Any], batch: int) -> str:
    peak = f", peak {found['peak_bytes'] / 2**20:.0f} MiB" if "peak_bytes" in found else ""
    return f"{found['ratio']:6.3f} ({found['label']}; {batch / found['seconds']:.0f} images/s{peak})"
