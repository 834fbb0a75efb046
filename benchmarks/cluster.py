"""Overhead of the engines, and how it grows: python -m benchmarks.cluster [--quick] [--only PART ...].

The overhead a stage is the time between the first stage's end and the last one's, less the seconds that the stages
themselves took, of a study of small stages, tickets read and written. Crowds are processes that pull stages that sleep from
one store, as SLURM jobs do. A checkpoint's share is that of a training at the default interval. The trend is the planning of
ever more stages; `--only scale` simulates studies of up to `--most` stages that do nothing. Exit code 1
when a target is missed.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import torch
import yaml
from torch import nn

from benchmarks.record import Row, finish, judged, parser
from benchmarks.simulation import simulate
from tombola.data.batches import TensorBatches
from tombola.engine.folder import StudyFolder
from tombola.engine.local import LocalEngine
from tombola.engine.on_ray import RayTasks
from tombola.engine.progress import Watcher
from tombola.engine.pull import pull
from tombola.engine.store import Store, missing
from tombola.posterior.state import initial_state, layout_of
from tombola.pruning.ticket import Ticket
from tombola.settings import PosteriorSettings, PruneSettings, TrainSettings
from tombola.study.spec import Study
from tombola.study.stages import Outcome, RunContext, Stage
from tombola.training.checkpoint import QUICK, Checkpoint
from tombola.training.loop import train
from tombola.training.out_of_memory import keep_freed_memory

TARGETS = {
    "local, ms a stage": 20.0,
    "SLURM worker, ms a stage": 20.0,
    "ray, ms a stage": 100.0,
    "checkpoint, % of training": 2.0,
}
PARTS = ("crowd", "local", "ray", "checkpoint", "plan", "scale")
_WIDTHS = (270, 2700, 11_000)  # of networks of about a thousand times as many parameters
INTERVAL = next(field.default for field in fields(Study) if field.name == "checkpoint_seconds")
"""Seconds between checkpoints by default."""
_LARGE = (1_000, 10_000, 100_000, 1_000_000)
CROWDS = (1, 4, 16, 64)
"""Numbers of processes that pull from one store."""
_SLEEP, _EACH = 0.5, 20  # seconds of a stage that sleeps, and stages for each process
_SIZES = (7, 14, 28)  # seeds of the study that is planned: about 360 stages each
_CPU = torch.device("cpu")

_SMALL: dict[str, Any] = {
    "name": "small",
    "threads": 1,
    "data": {"name": "digits", "args": {"validation": 0, "test": 1500}},
    "model": {"name": "mlp", "args": {"hidden": [16]}},
    "train": {"epochs": 1, "batch_size": 128, "lr": 0.01},
    "prune": {"fraction": 0.2, "levels": 5},
    "evaluate": {"samples": 1},
    "arms": [{"arm": "ticket", "score": ["snr", "mu"]}, "deterministic", "transplant"],
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Sleep(Stage):
    """Stage that sleeps."""

    kind: ClassVar[str] = "sleep"
    number: int

    def describe(self) -> dict[str, Any]:
        return {"number": self.number}

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        time.sleep(_SLEEP)
        return Outcome(None, {"number": self.number})


class Silent(Watcher):
    """Watcher that says nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("cluster", __doc__)
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=PARTS[:-1], help="parts; by default all but scale")
    arguments.add_argument("--most", type=int, default=100_000, help="stages of the largest simulated study (100,000)")
    args = arguments.parse_args(argv)
    torch.set_num_threads(1)
    found: dict[str, float] = {}

    def tell(what: str, value: float) -> None:
        found[what] = value
        print(f"{what:50s} {value:10.3f}", flush=True)

    with tempfile.TemporaryDirectory() as place:
        for part in args.only:
            _measure(part, Path(place), args, tell)
    row: Row = {"threads": 1, "quick": args.quick, **found}
    return finish("cluster", [judged(row, found, {} if args.quick else TARGETS)], args.out, argv)


def _measure(part: str, root: Path, args: argparse.Namespace, tell: Callable[[str, float], None]) -> None:
    """Tell the numbers of one of `PARTS`."""
    if part == "crowd":
        for count in CROWDS[:2] if args.quick else CROWDS:  # of which the largest takes minutes on a few cores
            seconds = crowd(root / f"crowd-{count}", count)
            tell(f"{count} processes, of the ideal time", seconds / (_SLEEP * _EACH))
    elif part == "local":
        tell("local, ms a stage", 1e3 * local(study(root / "local", args.quick)))
        tell("SLURM worker, ms a stage", 1e3 * pulled(study(root / "slurm", args.quick)))
    elif part == "ray":
        tell("ray, ms a stage", 1e3 * on_ray(study(root / "ray", args.quick)))
    elif part == "checkpoint":
        shares = []
        for width in _WIDTHS[:2] if args.quick else _WIDTHS:
            parameters, seconds = checkpoint(root, width)
            shares.append(100 * seconds / max(INTERVAL, INTERVAL * seconds / QUICK))
            tell(f"checkpoint of {parameters} parameters, s", seconds)
        tell("checkpoint, % of training", max(shares))
    elif part == "plan":
        for seeds in _SIZES[:1] if args.quick else _SIZES:
            stages, seconds, megabytes = planned(seeds)
            tell(f"plan of {stages} stages, s", seconds)
            tell(f"plan of {stages} stages, MB", megabytes)
    else:
        for count in (count for count in _LARGE if count <= args.most):
            simulate(root, count, lambda what, value, count=count: tell(f"{count} stages: {what}", value))


def checkpoint(root: Path, width: int) -> tuple[int, float]:
    """Return the parameters of a network and the median seconds that its training writes a checkpoint."""
    took: list[float] = []
    keep_freed_memory()  # as every run does

    class Timed(Checkpoint):
        def save(self, *args: Any) -> None:
            began = time.perf_counter()
            super().save(*args)
            took.append(time.perf_counter() - began)

    module = nn.Sequential(nn.Linear(1000, width), nn.ReLU(), nn.Linear(width, 10))
    layout = layout_of(module, PosteriorSettings(), PruneSettings())
    state = initial_state(module, layout, PosteriorSettings(), 0)
    batches = TensorBatches(torch.randn(32, 1000), torch.arange(32) % 10, 4, 0)
    kept = Timed(root / f"{width}.checkpoint", 0.0)
    train(module, state, batches, TrainSettings(epochs=1), stream=("checkpoint",), checkpoint=kept)
    return layout.numel, median(took)


def study(root: Path, quick: bool) -> StudyFolder:
    """Return the folder of a study of small stages."""
    root.mkdir()
    (root / "small.yaml").write_text(yaml.safe_dump(_SMALL | {"seeds": list(range(1 if quick else 4))}))
    folder = StudyFolder.of(_SMALL | {"seeds": list(range(1 if quick else 4))}, root / "small", root / "stages", root)
    folder.prepare()
    return folder


def local(folder: StudyFolder) -> float:
    """Return the seconds of overhead a stage of the local engine."""
    LocalEngine(folder.store, _CPU, Silent()).run(folder.plan)
    return overhead(folder)


def pulled(folder: StudyFolder) -> float:
    """Return the seconds of overhead a stage of a SLURM job, or another process that pulls stages."""
    if code := pull(folder.path, "cpu", 1):
        raise RuntimeError(f"the worker has ended with code {code}")
    return overhead(folder)


def on_ray(folder: StudyFolder) -> float:
    """Return the seconds of overhead a stage of Ray tasks, one at once, without the start of Ray and of its worker."""
    with RayTasks(folder, "cpu", 1, print, jobs=1) as crew:
        while crew.at_work():
            pass
    return overhead(folder)


def overhead(folder: StudyFolder) -> float:
    """Return the seconds between the stages' ends that are not of the stages themselves, a stage."""
    left = missing(folder.plan, folder.store)
    if left:
        raise RuntimeError(f"{len(left)} stages have failed: {folder.store.failure(left[0].key)[1]}")
    keys = sorted((stage.key for stage in folder.plan.stages), key=folder.store.finished)
    wall = folder.store.finished(keys[-1]) - folder.store.finished(keys[0])
    own = sum(folder.store.record(key)["run"]["seconds"] for key in keys[1:])
    return (wall - own) / (len(keys) - 1)


def crowd(root: Path, count: int) -> float:
    """Return the seconds in which `count` processes run `_EACH` sleeping stages each, from one store."""
    Store(root).prepare()
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(count + 1)
    processes = [context.Process(target=_pull, args=(root, count * _EACH, ready)) for _ in range(count)]
    for process in processes:
        process.start()
    ready.wait()
    began = time.perf_counter()
    for process in processes:
        process.join()
    return time.perf_counter() - began


def _pull(root: Path, stages: int, ready: Any) -> None:
    todo = [Sleep(number=number) for number in range(stages)]
    names = {stage.key: str(stage.number) for stage in todo}
    engine = LocalEngine(Store(root), _CPU, Silent(), joins=True)
    ready.wait()
    engine.run_stages(todo, names, "crowd")


def planned(seeds: int) -> tuple[int, float, float]:
    """Return stages, seconds of processor and megabytes of a plan of `benchmarks.scale`'s study, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_plan, (seeds,))


def _plan(seeds: int) -> tuple[int, float, float]:
    from benchmarks.scale import large

    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    folder = StudyFolder.of(large(seeds), Path("nowhere"), Path("no-stages"), Path())
    stages = len(folder.outline.stages)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return stages, time.process_time() - began, (after - before) / 1e3


if __name__ == "__main__":
    sys.exit(main())
