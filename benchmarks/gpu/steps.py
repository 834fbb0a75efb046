"""The price of a Bayesian step: each method's fastest configuration over the fastest deterministic one."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from benchmarks.correct import assert_gradients
from benchmarks.gpu import timing
from benchmarks.gpu.job import Job
from benchmarks.record import as_json, verdicts

Row = dict[str, Any]

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
"""What is timed beside each configuration, in turn: each is compared by its time over that of the reference beside it, so
that a change of the machine's pace falls on both."""


def steps(job: Job, net: str, arms: Sequence[str]) -> list[Row]:
    """A row for each configuration; prints ratios, images a second and peak memory, and judges them in the first row."""
    assert_gradients(job.start(net)[0], job.batch(8))
    size = job.settings(net).batch_size
    batch, (warm, count) = job.batch(size), timing.counts(job)
    rows = []
    for label, run in _kinds(job, net, arms).items():
        rows.append({"label": label, "batch": size, **_measured(job, net, label, batch, lambda b, r=run: r(b, warm, count))})
        rows[-1]["verdicts"] = []
    found = summary(rows)
    if (plain := found["deterministic"]) is None:
        print(f"{net}: no deterministic step could be measured")
        return rows
    print(f"{net}, batch {size}: deterministic {1e3 * plain['seconds']:.2f} ms ({plain['label']})")
    for arm, best in found["arms"].items():
        peak = f", peak {best['peak_bytes'] / 2**20:.0f} MiB" if "peak_bytes" in best else ""
        print(f"  {arm:16s} {best['ratio']:6.3f} ({best['label']}; {size / best['seconds']:.0f} images/s{peak})")
    judged = verdicts({arm: best["ratio"] for arm, best in found["arms"].items()}, TARGETS if job.is_judged else {})
    for verdict in judged:
        print(f"  {verdict}")
    rows[0]["verdicts"] = as_json(judged)
    return rows


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
    """Arm -> the configuration (fields of TrainSettings) that was its fastest."""
    return {arm: timing.CONFIGURATIONS[best["label"]] for arm, best in summary(rows)["arms"].items()}


def _kinds(job: Job, net: str, arms: Sequence[str]) -> dict[str, Callable[[timing.Batch, int, int], dict[str, float]]]:
    """Label -> what times `count` steps on a batch after `warm` ones."""
    kinds: dict[str, Callable[[timing.Batch, int, int], dict[str, float]]] = {}
    for label, how in timing.PLAIN.items():
        if how["compile"] is None or job.device.type == "cuda":
            kinds[label] = lambda batch, warm, count, h=how: timing.plain_steps(job, net, batch, warm, count, **h)
    for arm in arms:
        for label, changes in timing.available(job.device).items():
            train = job.settings(net, **ARMS[arm], **changes)
            if train.estimator == "local" and (train.compile or train.cuda_graphs):
                continue  # it has to see the operations one by one
            kinds[f"{arm} | {label}"] = lambda batch, warm, count, t=train: timing.trained_steps(
                job, net, t, batch, warm, max(1, count // t.samples)
            )
    return kinds


def _measured(job: Job, net: str, label: str, batch: timing.Batch, run: Callable[[timing.Batch], dict[str, float]]) -> Row:
    """One configuration in turn with the reference."""
    if "compile" in label:
        torch.compiler.reset()  # torch stops compiling one network anew after a few times
    warm, count = timing.counts(job)
    kinds = {
        "the reference": lambda: timing.plain_steps(job, net, batch, warm, count, **timing.PLAIN[REFERENCE]),
        label: lambda: run(batch),
    }
    found = timing.interleaved(kinds, 2 if job.toy else 5)
    own, beside = found[label], found["the reference"]
    if "failed" in own or "failed" in beside:
        return {"failed": own.get("failed") or f"the reference: {beside['failed']}"}
    return {**own, "reference": beside, "relative": own["seconds"] / beside["seconds"]}
