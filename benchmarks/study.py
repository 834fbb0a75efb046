"""The cost of a whole study over its training loops alone: python -m benchmarks.study [--quick] [--threads 1 2].

A small study of tickets, deterministic tickets and re-initialisations on the built-in digits, and the demo, each by `tombola
run` in a process and a fresh folder; and the study once more when all of it is done. They are divided by bare loops over the
same batches: a plain torch loop (deterministic, fused Adam), and one of tombola's own training steps, whose paces are timed
before and after in this process, times the steps of the study's plan. So the ratios hold on a slower machine too. The excess
over 1 of a study over its bare steps is measuring, pruning, storing, the report and the start of Python. Exit code 1 when a
target is missed.
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.record import finish, judged, parser
from benchmarks.steps import DETERMINISTIC, configurations
from tombola import streams
from tombola.data import load_data
from tombola.engine.folder import StudyFolder
from tombola.engine.local import dataset
from tombola.engine.work import work_of
from tombola.models import build
from tombola.study.stages import Train

_BATCH = 64
_STUDY = {
    "name": "small",
    "seeds": [0, 1],
    "data": {"name": "digits"},
    "model": {"name": "mlp", "args": {"hidden": [300, 100]}},
    "train": {"epochs": 10, "batch_size": _BATCH, "lr": 0.003},
    "prune": {"fraction": 0.36, "levels": 6},
    "arms": ["ticket", "deterministic", "reinit"],
}
_QUICK = {
    "study": ["seeds=[0]", "prune.levels=2", "train.epochs=5"],
    "demo": ["seeds=[0]", "prune.levels=2", "train.epochs=2"],
}

_DEMO_BEFORE = 81.0  # seconds of the demo's 37,200 steps on one thread of the machine that it was first recorded on ...
_PLAIN_BEFORE = 0.00068  # ... where a plain step took so many
TARGETS = {
    "study over its bare steps": 2.0,
    "resume over study": 0.5,
    "demo over plain steps": _DEMO_BEFORE / (37_200 * _PLAIN_BEFORE),
}
"""The most of each ratio, without --quick. The demo's: no slower than before, on a machine of any pace."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("study", __doc__)
    arguments.add_argument("--no-demo", action="store_true", help="the small study alone")
    args = arguments.parse_args(argv)
    rows = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        with tempfile.TemporaryDirectory() as folder:
            row = _measured(Path(folder), threads, args.quick, not args.no_demo)
        print(f"digits, {threads} thread(s): plain step {row['milliseconds']['plain step']:.3f} ms")
        for what, seconds in row["seconds"].items():
            print(f"  {what:28s} {seconds:8.2f} s")
        for what, ratio in row["ratio"].items():
            print(f"  {what:28s} {ratio:8.3f}")
        row |= {"threads": threads, "quick": args.quick}
        rows.append(judged(row, row["ratio"], {} if args.quick else TARGETS))
    return finish("study", rows, args.out, argv)


def _measured(folder: Path, threads: int, quick: bool, demo: bool) -> dict[str, Any]:
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(_STUDY))
    loops = {"plain": _loop(DETERMINISTIC), "vi": _loop("vi"), "map": _loop("map")}
    paces: dict[str, list[float]] = {name: [] for name in loops}

    def pace() -> None:
        for _ in range(2 if quick else 10):
            for name, loop in loops.items():
                paces[name].append(loop())

    pace()
    seconds = {"study": _run(str(file), folder / "study", threads, _QUICK["study"] if quick else [])}
    pace()
    seconds["resume"] = _run(str(file), folder / "study", threads, _QUICK["study"] if quick else [])
    if demo:
        seconds["demo"] = _run("demo", folder / "demo", threads, _QUICK["demo"] if quick else [])
        pace()
    step = {name: statistics.median(values) for name, values in paces.items()}
    work = _work(folder / "study")
    trained = _kept(folder / "study")
    ratio = {
        "study over plain steps": seconds["study"] / (sum(work.values()) * step["plain"]),
        "study over its bare steps": seconds["study"] / sum(steps * step[name] for name, steps in work.items()),
        "training over its bare steps": trained / sum(steps * step[name] for name, steps in work.items()),
        "resume over study": seconds["resume"] / seconds["study"],
    }
    if demo:
        ratio["demo over plain steps"] = seconds["demo"] / (sum(_work(folder / "demo").values()) * step["plain"])
    return {
        "steps": work,
        "milliseconds": {f"{name} step": 1e3 * value for name, value in step.items()},
        "seconds": {**seconds, "training in the study": trained},
        "ratio": ratio,
    }


def _loop(label: str) -> Callable[[], float]:
    """Return a function that times an epoch over the digits, batches gathered included, in seconds a step."""
    data = load_data("digits", {})
    inputs, targets = data.prepare(data.train[0]), data.train[1]
    module = build("mlp", {"hidden": [300, 100]}, tuple(inputs.shape[1:]), 10, ("benchmark",)).train()
    shown: list[Tensor] = [inputs[:_BATCH].clone(), targets[:_BATCH].clone()]
    step = configurations()[label].make(module, (shown[0], shown[1]), "fp32")
    stream = streams.generator("benchmark")

    def epoch() -> float:
        began, done = time.perf_counter(), 0
        for rows in torch.randperm(len(inputs), generator=stream).split(_BATCH):
            if len(rows) == _BATCH:  # the step holds on to its batch: examples are written into it
                torch.index_select(inputs, 0, rows, out=shown[0])
                torch.index_select(targets, 0, rows, out=shown[1])
                step()
                done += 1
        return (time.perf_counter() - began) / done

    epoch()  # warms up
    return epoch


def _run(study: str, out: Path, threads: int, changes: Sequence[str]) -> float:
    """Return the seconds of `tombola run`, from the start of Python to the report. Raises RuntimeError if it fails."""
    command = [sys.executable, "-c", "from tombola.cli.app import main; main()", "run", study, "--out", str(out)]
    for change in (f"threads={threads}", *changes):
        command += ["--set", change]
    began = time.perf_counter()
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"tombola run {study} failed: {(done.stderr or done.stdout).strip()[-1000:]}")
    return time.perf_counter() - began


def _work(folder: Path) -> dict[str, int]:
    """Return the training steps of a study: `vi` and `map`."""
    found = {"vi": 0, "map": 0}
    for stage in _trainings(folder):
        found[stage.settings.method] += work_of(stage, dataset)
    return found


def _kept(folder: Path) -> float:
    """Return the seconds of a finished study's trainings, the measurement at each epoch's end included."""
    store = StudyFolder.open(folder).store
    return sum(store.record(stage.key)["run"]["seconds"] for stage in _trainings(folder))


def _trainings(folder: Path) -> list[Train]:
    with contextlib.chdir(folder):
        return [stage for stage in StudyFolder.open(folder).plan.stages if isinstance(stage, Train)]


if __name__ == "__main__":
    sys.exit(main())
