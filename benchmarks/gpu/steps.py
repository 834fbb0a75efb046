"""The price of a Bayesian step: each method's fastest configuration over the fastest deterministic one."""

import dataclasses
from typing import Any

from benchmarks.gpu import timing
from benchmarks.gpu.nets import Job, Recipe
from benchmarks.gpu.sitting import Row, Sitting
from tombola.inference import METHODS
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


def steps(job: Job, sitting: Sitting) -> bool:
    """Prints ratios, images a second, peak memory; returns whether a target is missed."""
    missed = False
    for net in job.nets:
        row = sitting.row(net, lambda net=net: _measure(job, sitting, net), needs=0 if job.toy else 5)  # type: ignore[misc]
        fastest = row["deterministic"]
        sitting.say(f"{net}, batch {row['batch']}: deterministic {1e3 * fastest['seconds']:.2f} ms ({fastest['label']})")
        for arm, found in row["arms"].items():
            target = TARGETS.get(arm)
            verdict = job.verdict(f"<= {target:.2f}", found["ratio"] <= target) if target else ""
            sitting.say(f"  {arm:16s} {_line(found)}{verdict}")
            missed |= target is not None and found["ratio"] > target
    return missed


def fastest_of(sitting_rows: dict[str, Row], net: str, arm: str) -> dict[str, Any]:
    """The configuration (fields of TrainSettings) that was fastest for the arm; before that is known bf16, channels_last."""
    found = sitting_rows.get(net, {}).get("arms", {}).get(arm, {})
    return timing.CONFIGURATIONS[found.get("label", "bf16 channels_last")]


def _measure(job: Job, sitting: Sitting, net: str) -> Row:
    timing.assert_correct(job, net)
    size = job.batch_of(net)
    batch, recipe = timing.batch_for(job, size), Recipe()
    warm, count, rounds = (1, 2, 2) if job.toy else (11, 40, 5)
    configurations = timing.available(job.device, sitting.say)
    kinds = {}
    for label, arguments in timing.PLAIN.items():
        if arguments["compile"] is None or job.device.type == "cuda":
            kinds[label] = lambda a=arguments: timing.plain_steps(job, net, batch, warm, count, **a)
    for arm, fields in ARMS.items():
        if fields["method"] not in METHODS:
            sitting.say(f"{arm}: skipped, there is no method {fields['method']}")
            continue
        for label, changes in configurations.items():
            train = dataclasses.replace(TrainSettings(), **fields, **changes)
            one = dataclasses.replace(recipe, train=train)
            few = max(1, count // train.samples)
            kinds[f"{arm} | {label}"] = lambda o=one, n=few: timing.trained_steps(job, net, o, batch, warm, n)
    all_rows = timing.interleaved(kinds, rounds, sitting.say)
    done = {label: found for label, found in all_rows.items() if "seconds" in found}
    plain = min((label for label in done if label.startswith(("plain", "map"))), key=lambda label: done[label]["seconds"])
    arms = {}
    for arm in ARMS:
        own = {label.partition(" | ")[2]: found for label, found in done.items() if label.startswith(f"{arm} | ")}
        if own:
            label = min(own, key=lambda name: own[name]["seconds"])
            best = own[label]
            arms[arm] = {
                "label": label,
                "seconds": best["seconds"],
                "ratio": best["seconds"] / done[plain]["seconds"],
                "images_per_second": size / best["seconds"],
                "peak_bytes": best.get("peak_bytes"),
            }
    return {
        "batch": size,
        "parameters": sum(p.numel() for p in job.module(net).parameters()),
        "deterministic": {"label": plain, **done[plain]},
        "arms": arms,
        "all": all_rows,
    }


def _line(found: dict[str, Any]) -> str:
    peak = f", peak {found['peak_bytes'] / 2**20:.0f} MiB" if found["peak_bytes"] is not None else ""
    return f"{found['ratio']:6.3f} ({found['label']}; {found['images_per_second']:.0f} images/s{peak})"
