"""Many small networks at once, against one after another. At once there are no CUDA graphs."""

from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.gpu import timing
from benchmarks.gpu.nets import FULL, Job
from benchmarks.gpu.sitting import Row, Sitting
from tombola.training.together import train_together, unfit_settings

_REPLICAS = (2, 4, 8, 16, 32)


def together(job: Job, sitting: Sitting) -> bool:
    """Prints what R networks at once take over R of them one after another, each way at its fastest. There is no target."""
    for net in job.nets:
        for replicas in (2,) if job.toy else _REPLICAS:
            name = f"{net}, {replicas} at once"
            row = sitting.row(name, partial(_measure, job, sitting, net, replicas), needs=0 if job.toy else 2)
            for label, found in row["all"].items():
                if "failed" in found:
                    sitting.say(f"{name} | {label}: failed, {found['failed']}")
            if row["ratio"] is not None:
                sitting.say(f"{name}, batch {row['batch']} each: {row['ratio']:.3f} of one after another")
    return False


def _measure(job: Job, sitting: Sitting, net: str, replicas: int) -> Row:
    size = job.batch_of(net)
    batch = timing.batch_for(job, size)
    warm, count, rounds = (1, 2, 1) if job.toy else (11, 40, 3)
    kinds = {}
    for label, changes in timing.available(job.device, lambda line: None).items():
        one = FULL.with_train(**changes)
        kinds[f"single | {label}"] = lambda o=one: timing.trained_steps(job, net, o, batch, warm, count)
        if unfit_settings(one.train) is None:
            kinds[f"together | {label}"] = lambda o=one: _steps(job, net, o, batch, replicas, warm, count)
    found = timing.interleaved(kinds, rounds, sitting.say)

    def fastest(way: str) -> float | None:
        return min((v["seconds"] for k, v in found.items() if k.startswith(way) and "seconds" in v), default=None)

    single, at_once = fastest("single"), fastest("together")
    ratio = at_once / (replicas * single) if single and at_once else None
    return {"batch": size, "replicas": replicas, "ratio": ratio, "all": found}


def _steps(job: Job, net: str, recipe: Any, batch: timing.Batch, replicas: int, warm: int, count: int) -> dict[str, float]:
    """As `timing.trained_steps`, of all replicas together."""
    module = job.module(net)
    states = [job.state(job.module(net, seed), recipe, seed) for seed in range(replicas)]
    settings = replace(recipe.train, epochs=1, schedule="constant")
    batches = [timing.Repeated(batch, warm + count) for _ in states]
    return timing.timed(
        job.device,
        warm,
        count,
        lambda tick: train_together(
            *(module, states, batches, settings),
            words=[("benchmark", seed) for seed in range(replicas)],
            on_step=lambda done, _: tick(done),
        ),
    )
