"""Whole epochs: the share of augmented images in one, and minutes of a 160-epoch level."""

import statistics
import time
from collections import deque
from typing import Any

from benchmarks.gpu import timing
from benchmarks.gpu.job import MINUTES, Job
from benchmarks.record import Row, judged
from tombola.settings import TrainSettings
from tombola.training.loop import Trained, train

Configurations = dict[str, dict[str, Any]]
"""Arm of the piece `steps` -> the fastest fields of TrainSettings that it has found."""

SHARE = 0.02
"""The largest share of a ResNet-20 epoch that its images may take."""

_UNTIL_KNOWN = timing.CONFIGURATIONS["bf16 channels_last"]


def data(job: Job, net: str, fastest: Configurations) -> Row:
    """Return the seconds of an augmented epoch on the device, alone, and their share of a deterministic epoch of the net."""
    settings = job.settings(net, method="map", **fastest.get("map", _UNTIL_KNOWN))
    batches = job.batches(net, settings.batch_size)

    def epoch(number: int) -> float:
        return timing.seconds(job.device, lambda: deque(batches.epoch(number), maxlen=0))

    times = [epoch(number) for number in range(2 if job.toy else 6)]
    images, epoch_seconds = statistics.median(times[1:]), statistics.median(_epoch_seconds(job, net, settings)[1:])
    share = images / epoch_seconds
    print(
        f"{job.data.name}, batch {settings.batch_size}: {1e3 * images:.1f} ms of images, {1e3 * epoch_seconds:.0f} ms an "
        f"epoch of {net}: {100 * share:.2f}%"
    )
    row = {"batch": settings.batch_size, "images_seconds": images, "images_times": times}
    targets = {"share of images": SHARE} if job.is_judged and net == "resnet20" else {}
    return judged(row | {"epoch_seconds": epoch_seconds, "share": share}, {"share of images": share}, targets)


def levels(job: Job, net: str, fastest: Configurations, whole: bool) -> list[Row]:
    """Return minutes of a level by the paper's schedule: extrapolated from some epochs, or measured of all."""
    rows = []
    for label, arm, settings in _levels_of(job, net, fastest, whole):
        run = _train(job, net, settings) if whole else None
        seconds = [] if run else _epoch_seconds(job, net, settings)
        minutes = (run.seconds if run else settings.epochs * statistics.median(seconds[1:])) / 60
        how = "measured whole" if whole else "extrapolated"
        print(f"{net}, {label}, batch {settings.batch_size}: {minutes:.2f} min a level ({how})")
        row = {"label": label, "batch": settings.batch_size, "configuration": fastest.get(arm, _UNTIL_KNOWN)}
        row |= {"minutes": minutes, "extrapolated": not whole, "epoch_seconds": seconds}
        row |= {"final": run.history[-1]} if run else {}
        targets = {f"minutes of {_JUDGED}": MINUTES[net]} if job.is_judged else {}
        rows.append(judged(row, {f"minutes of {label}": minutes}, targets))
    return rows


_JUDGED = "paper's batch, vi"


def _levels_of(job: Job, net: str, fastest: Configurations, whole: bool) -> list[tuple[str, str, TrainSettings]]:
    """Return (label, arm of the piece `steps`, settings) of each level."""
    found = [(_JUDGED, "vi", {}), ("paper's batch, map", "map", {"method": "map"})]
    if not whole:
        found.append(("paper's batch, vi of 10 samples", "vi, 10 samples", {"samples": 10}))
    found.append(("recipe's batch, vi", "vi", {"batch_size": job.settings(net, "gpu").batch_size}))
    return [(label, arm, job.settings(net, **changes, **fastest.get(arm, _UNTIL_KNOWN))) for label, arm, changes in found]


def _epoch_seconds(job: Job, net: str, settings: TrainSettings) -> list[float]:
    """Return seconds of the first epochs of the schedule, validation included as in a study; the first one warms up."""
    ends: list[float] = []

    def note(row: dict[str, float]) -> None:
        timing.synchronize(job.device)
        ends.append(time.perf_counter())

    began = time.perf_counter()
    _train(job, net, settings, epochs=4, on_epoch=note)
    return [after - before for before, after in zip([began, *ends], ends, strict=False)]


def _train(job: Job, net: str, settings: TrainSettings, epochs: int | None = None, **how: Any) -> Trained:
    module, state = job.start(net, settings.method)
    batches = job.batches(net, settings.batch_size)
    stop = None if epochs is None else epochs * batches.steps
    test = job.data.test[0].to(job.device), job.data.test[1].to(job.device)
    stream = ("benchmark", net)
    return train(
        module, state, batches, settings, stream=stream, stop=stop, validation=test, prepare=job.data.prepare, **how
    )
