"""Whole epochs: what augmented images cost of one, and minutes of a 160-epoch level."""

import statistics
import time
from functools import partial
from typing import Any

from benchmarks.gpu import timing
from benchmarks.gpu.nets import FULL, NETS, Job, Recipe
from benchmarks.gpu.sitting import Row, Sitting
from benchmarks.gpu.steps import fastest_of
from tombola.data import training_batches
from tombola.inference import method_of
from tombola.training.loop import train

SHARE = 0.02
"""Most that the images of an epoch may take of a ResNet-20 epoch."""

_EPOCHS = 160  # of the paper's level


def data(job: Job, sitting: Sitting, steps: dict[str, Row]) -> bool:
    """An augmented epoch on the device, alone, over a deterministic ResNet-20 epoch; steps: rows of that piece."""
    net = "resnet20"
    row = sitting.row(net, lambda: _share(job, net, steps), needs=0 if job.toy else 1)
    missed = row["share"] > SHARE
    sitting.say(
        f"{row['data']}, batch {row['batch']}: {1e3 * row['images_seconds']:.1f} ms of images, "
        f"{1e3 * row['epoch_seconds']:.0f} ms an epoch of {net}: {100 * row['share']:.2f}%"
        f"{job.verdict(f'<= {100 * SHARE:.0f}%', not missed)}"
    )
    return missed


def levels(job: Job, sitting: Sitting, steps: dict[str, Row]) -> bool:
    """Minutes of a 160-epoch level: measured of some epochs and extrapolated, or with --whole of all."""
    missed = False
    for net in job.nets:
        for label, recipe, arm in _levels_of(job, net):
            name = f"{net}, {label}" + (", whole" if job.whole else "")
            run = _whole if job.whole else _some
            measure = partial(run, job, sitting, name, net, recipe, fastest_of(steps, net, arm))
            row = sitting.row(name, measure, needs=0 if job.toy or job.whole else 2)
            target = NETS[net].minutes if (arm, label.split(", ")[0]) == ("vi", "paper's batch") else None
            verdict = job.verdict(f"<= {target} min", row["minutes"] <= target) if target else ""
            how = "extrapolated" if row["extrapolated"] else "measured whole"
            sitting.say(f"{name}, batch {row['batch']}: {row['minutes']:.2f} min a level ({how}){verdict}")
            missed |= target is not None and row["minutes"] > target
    return missed


def _levels_of(job: Job, net: str) -> list[tuple[str, Recipe, str]]:
    """(label, settings, arm of the piece `steps`)."""
    paper = FULL.with_train(batch_size=job.batch_of(net))
    found = [("paper's batch, vi", paper, "vi"), ("paper's batch, map", paper.with_train(method="map"), "map")]
    if not job.whole:
        found.append(("paper's batch, vi of 10 samples", paper.with_train(samples=10), "vi, 10 samples"))
    if net in job.recipes.get("gpu", {}):
        own = job.recipes["gpu"][net].train.batch_size
        found.append(("recipe's batch, vi", FULL.with_train(batch_size=own), "vi"))
    return found


def _share(job: Job, net: str, steps: dict[str, Row]) -> Row:
    batches = training_batches(job.data, FULL.data, job.batch_of(net), 0, job.device)
    times = []
    for epoch in range(2 if job.toy else 6):
        timing.synchronize(job.device)
        began = time.perf_counter()
        for _ in batches.epoch(epoch):
            pass
        timing.synchronize(job.device)
        times.append(time.perf_counter() - began)
    images = statistics.median(times[1:])
    epoch = _epoch_seconds(
        job, net, FULL.with_train(method="map", batch_size=job.batch_of(net)), fastest_of(steps, net, "map")
    )
    return {
        "data": job.data.name,
        "batch": job.batch_of(net),
        "images_seconds": images,
        "images_times": times,
        "epoch_seconds": statistics.median(epoch[1:]),
        "share": images / statistics.median(epoch[1:]),
    }


def _some(job: Job, sitting: Sitting, name: str, net: str, recipe: Recipe, configuration: dict[str, Any]) -> Row:
    seconds = _epoch_seconds(job, net, recipe, configuration)
    return {
        "batch": recipe.train.batch_size,
        "configuration": configuration,
        "epoch_seconds": seconds,
        "minutes": _EPOCHS * statistics.median(seconds[1:]) / 60,
        "extrapolated": True,
    }


def _whole(job: Job, sitting: Sitting, name: str, net: str, recipe: Recipe, configuration: dict[str, Any]) -> Row:
    checkpoint = sitting.checkpoint(name)
    settings = recipe.with_train(epochs=2 if job.toy else _EPOCHS, **configuration)
    trained = _train(job, net, settings, checkpoint=checkpoint)
    checkpoint.path.unlink(missing_ok=True)
    return {
        "batch": recipe.train.batch_size,
        "configuration": configuration,
        "minutes": trained.seconds / 60,
        "final": trained.history[-1],
        "extrapolated": False,
    }


def _epoch_seconds(job: Job, net: str, recipe: Recipe, configuration: dict[str, Any]) -> list[float]:
    """Of the first epochs of the schedule, validation included as in a study; the first one warms up."""
    ends: list[float] = []

    def note(row: dict[str, float]) -> None:
        timing.synchronize(job.device)
        ends.append(time.perf_counter())

    epochs = 3 if job.toy else 4
    began = time.perf_counter()
    _train(job, net, recipe.with_train(**configuration), epochs=epochs, on_epoch=note)
    return [after - before for before, after in zip([began, *ends], ends, strict=False)]


def _train(job: Job, net: str, recipe: Recipe, epochs: int | None = None, **how: Any) -> Any:
    module = job.module(net)
    state = job.state(module, recipe)
    state = state.as_family(method_of(recipe.train.method).learns)
    batches = training_batches(job.data, recipe.data, recipe.train.batch_size, 0, job.device)
    stop = None if epochs is None else epochs * batches.steps
    test = job.data.test[0].to(job.device), job.data.test[1].to(job.device)
    return train(
        *(module, state, batches, recipe.train),
        words=("benchmark", net),
        stop=stop,
        validation=test,
        prepare=job.data.prepare,
        **how,
    )
