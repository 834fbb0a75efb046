"""The price of a Bayesian step: each method's fastest configuration over the fastest deterministic one."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.correct import assert_gradients
from benchmarks.gpu import timing
from benchmarks.gpu.job import Job
from benchmarks.record import Row, judged
from tombola.errors import TombolaError

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
"""The loop that is timed in turn with each configuration. Configurations are compared by their time over that of the
reference beside them, so that a change of the machine's pace falls on both."""


def steps(job: Job, net: str, arms: Sequence[str]) -> list[Row]:
    """Return a row for each configuration; print ratios, images a second and peak memory; the first row has the verdicts."""
    assert_gradients(job.start(net)[0], job.batch(8))
    size = job.settings(net).batch_size
    batch = job.batch(size)
    rows: list[Row] = [
        {"label": label, "batch": size, **_measured(job, net, label, batch, run)}
        for label, run in _kinds(job, net, arms, batch).items()
    ]
    found = summary(rows)
    if (plain := found["deterministic"]) is None:
        print(f"{net}: no deterministic step could be measured")
        return rows
    print(f"{net}, batch {size}: deterministic {1e3 * plain['seconds']:.2f} ms ({plain['label']})")
    for arm, best in found["arms"].items():
        peak = f", peak {best['peak_bytes'] / 2**20:.0f} MiB" if "peak_bytes" in best else ""
        print(f"  {arm:16s} {best['ratio']:6.3f} ({best['label']}; {size / best['seconds']:.0f} images/s{peak})")
    ratios = {arm: best["ratio"] for arm, best in found["arms"].items()}
    return [judged(rows[0], ratios, TARGETS if job.is_judged else {}), *rows[1:]]


def summary(rows: Iterable[Row]) -> dict[str, Any]:
    """Return a net's fastest deterministic row (None if there is none), and each arm's fastest with its `ratio`."""
    done = [row for row in rows if "relative" in row]

    def fastest(*prefixes: str) -> Row | None:
        some = [row for row in done if row["label"].startswith(prefixes)]
        return min(some, key=lambda row: row["relative"], default=None)

    plain, arms = fastest("plain", "map | "), {}
    if plain is not None:
        for arm in ARMS:
            if (best := fastest(f"{arm} | ")) is not None:
                configuration = best["label"].partition(" | ")[2]
                arms[arm] = best | {"label": configuration, "ratio": best["relative"] / plain["relative"]}
    return {"deterministic": plain, "arms": arms}


def fastest_of(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """Return arm -> the configuration (fields of TrainSettings) that was its fastest."""
    return {arm: timing.CONFIGURATIONS[best["label"]] for arm, best in summary(rows)["arms"].items()}


def _kinds(job: Job, net: str, arms: Sequence[str], batch: timing.Batch) -> dict[str, Callable[[], timing.Measured]]:
    """Return the steps to time on the batch, by label."""
    kinds: dict[str, Callable[[], timing.Measured]] = {}
    for label, how in timing.PLAIN.items():
        if "compile" not in how or job.device.type == "cuda":
            kinds[label] = partial(timing.plain_steps, job, net, batch, **how)
    for arm in arms:
        for label, changes in timing.available(job.device).items():
            train = job.settings(net, **ARMS[arm], **changes)
            if train.estimator == "local" and (train.compile or train.cuda_graphs):
                continue  # the estimator replaces the operations one by one
            kinds[f"{arm} | {label}"] = partial(timing.trained_steps, job, net, train, batch)
    return kinds


def _measured(job: Job, net: str, label: str, batch: timing.Batch, run: Callable[[], timing.Measured]) -> Row:
    """Return medians of one configuration, timed in turn with the reference; `failed` says why where there are none."""
    if "compile" in label:
        torch.compiler.reset()  # torch stops compiling one network anew after a few times
    reference = partial(timing.plain_steps, job, net, batch, **timing.PLAIN[REFERENCE])
    try:
        pairs = [(reference(), run()) for _ in range(2 if job.toy else 5)]
    except (RuntimeError, AssertionError, TombolaError) as error:  # compilers and graph captures raise these
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"{label}: failed, {why}")
        return {"failed": why}
    beside, own = (_medians(rounds) for rounds in zip(*pairs, strict=True))
    return {**own, "reference": beside, "relative": own["seconds"] / beside["seconds"]}


def _medians(rounds: Sequence[timing.Measured]) -> Row:
    times = [one["seconds"] for one in rounds]
    peak = {"peak_bytes": max(one["peak_bytes"] for one in rounds)} if "peak_bytes" in rounds[0] else {}
    return {"seconds": statistics.median(times), "times": times, **peak}
