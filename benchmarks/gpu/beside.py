"""Images a second of several networks side by side, each step one CUDA graph that makes its batch."""

import time
from dataclasses import replace
from typing import Any

from benchmarks.gpu import timing
from benchmarks.gpu.job import Job
from benchmarks.record import Row, judged
from tombola.errors import TombolaError
from tombola.training.loop import train_side_by_side
from tombola.training.work import Training

TARGETS = {"resnet20": 200_000, "vgg11": 250_000, "vit_tiny": 120_000}
"""Images a second of all networks together on an H200."""

COUNTS = (1, 2, 4)
BATCH = 500  # divides 45,000 and 50,000, so that no step is smaller and one graph is enough


def beside(job: Job, net: str, method: str = "vi") -> list[Row]:
    """Return a row for each number of networks, without and with torch.compile; print images a second of all together."""
    rows: list[Row] = []
    for compiled in (False, True) if job.device.type == "cuda" else (False,):
        for count in COUNTS:
            try:
                found = _rate(job, net, method, count, compiled)
            except (RuntimeError, TombolaError) as error:  # compilers and graph captures raise these
                found = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
            rows.append({"networks": count, "compile": compiled, "batch": BATCH, "method": method, **found})
            said = found.get("failed") or f"{found['images_per_s']:.0f} images/s, begun in {found['begun']:.1f} s"
            print(f"{net}, {method}, {count} side by side{', compiled' if compiled else ''}: {said}", flush=True)
    best = max((row["images_per_s"] for row in rows if "images_per_s" in row), default=0.0)
    targets = {"seconds for a million images": 1e6 / TARGETS[net]} if job.is_judged and best and net in TARGETS else {}
    return [judged(rows[0], {"seconds for a million images": 1e6 / best if best else 0.0}, targets), *rows[1:]]


def _rate(job: Job, net: str, method: str, count: int, compiled: bool) -> dict[str, Any]:
    warm, timed = timing.counts(job)
    fast = timing.CONFIGURATIONS["bf16 channels_last graphs" if job.device.type == "cuda" else "bf16 channels_last"]
    settings = replace(job.settings(net, "gpu", method=method, epochs=3, **fast), compile=compiled, batch_size=BATCH)
    trainings = []
    for seed in range(count):
        module, state = job.start(net, method)
        batches = job.batches(net, BATCH)
        trainings.append(Training(module=module, state=state, batches=batches, settings=settings, stream=("beside", seed)))
    times: dict[int, float] = {}

    def tick(done: int, total: int) -> None:
        if done in (1, warm, warm + timed):
            timing.synchronize(job.device)
            times[done] = time.perf_counter()

    began = time.perf_counter()
    train_side_by_side(trainings, stop=warm + timed, on_step=tick)
    seconds = (times[warm + timed] - times[warm]) / timed
    return {"seconds": seconds, "images_per_s": count * BATCH / seconds, "begun": times[1] - began}
