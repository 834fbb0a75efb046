"""Costs of commands beside training: python -m benchmarks.scale [--quick].

The demo, by `tombola` in a process of its own: its run, by the clock, and then the commands that read it, in seconds of
processor from the start of Python (the median of five runs), with the peak of resident memory. Then plan, status and resume
of a study of 10,000 stages whose outcomes are made up, and the claims of 100,000 records. Exit code 1 when a target is
missed.
"""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks.record import finish, judged, parser
from tombola.engine.folder import StudyFolder
from tombola.engine.store import Store
from tombola.metrics.columns import names  # pandas and numpy are imported where they are used: a plan needs neither

_LARGE: dict[str, Any] = {
    "name": "large",
    "seeds": list(range(28)),
    "threads": 1,
    "data": {"name": "digits"},
    "model": {"name": "mlp", "args": {"hidden": [300, 100]}},
    "train": {"epochs": 10, "batch_size": 64, "lr": 0.003},
    "prune": {"fraction": 0.2, "levels": 20},
    "arms": [
        {"arm": "ticket", "score": ["snr", "mu"]},
        "deterministic",
        "transplant",
        {"arm": ["reinit", "shuffle_layerwise"]},
    ],
}
_RECORDS = 100_000
_RUNS = 5  # of each command: the same one takes a fifth more or less from run to run
_NETS = ("resnet20", "resnet32", "resnet44", "vgg11", "vgg13", "vgg16", "vgg19", "mlp")

TARGETS = {
    "demo, by the clock": 75.0,
    "report": 6.0,
    "status": 2.0,
    "studies": 2.0,
    "claims": 3.0,
    "plan, 10,000 stages": 5.0,
    "status, 10,000 stages": 3.0,
    "resume, 10,000 stages": 5.0,
    "claims, 100,000 records": 5.0,
}
"""The most seconds, without --quick."""
MEGABYTES = {"plan, 10,000 stages": 500.0, "claims, 100,000 records": 500.0}
"""The most resident memory, without --quick."""

_TOMBOLA = "from tombola.cli.app import main; main()"
_KEEP_STATUS = "import atexit, shutil; atexit.register(lambda path: shutil.copy('/proc/self/status', path), *"
_PLAN = "import sys; from benchmarks.scale import plan; plan(sys.argv[1])"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("scale", __doc__)
    arguments.add_argument("--no-demo", action="store_true", help="the large study and the claims alone")
    args = arguments.parse_args(argv)
    seconds, megabytes = dict[str, float](), dict[str, float]()

    def measure(what: str, code: str, *words: str | Path, clock: bool = False) -> None:
        runs = [_measured(code, *words) for _ in range(1 if clock or args.quick else _RUNS)]
        seconds[what] = median(found["clock" if clock else "processor"] for found in runs)
        megabytes[what] = max(found["megabytes"] for found in runs)
        print(f"{what:30s} {seconds[what]:7.2f} s {megabytes[what]:7.0f} MB", flush=True)

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        if not args.no_demo:
            small = ["--set", "seeds=[0]", "--set", "prune.levels=1", "--set", "train.epochs=1"] if args.quick else []
            run = ["run", "demo", "--out", root / "demo", "--store", root / "stages", "--device", "cpu", *small]
            measure("demo, by the clock", _TOMBOLA, *run, clock=True)
            for command in ("report", "status", "claims"):
                measure(command, _TOMBOLA, command, root / "demo")
            measure("studies", _TOMBOLA, "studies")
            measure("resume", _TOMBOLA, *run)
        file = root / "large.yaml"
        file.write_text(yaml.safe_dump(_LARGE | ({"seeds": [0]} if args.quick else {})))
        folder = invent(file, root / "large", root / "made-up")
        stages = f"{len(folder.plan.stages):,}"
        print(f"the large study has {stages} stages and {len(folder.plan.rows):,} rows")
        measure("plan, 10,000 stages", _PLAN, file)
        measure("status, 10,000 stages", _TOMBOLA, "status", folder.path)
        measure("resume, 10,000 stages", _TOMBOLA, "run", file, "--out", folder.path, "--store", folder.store.root)
        many(folder.path / "records.parquet", root / "many.parquet", 1000 if args.quick else _RECORDS)
        measure("claims, 100,000 records", _TOMBOLA, "claims", root / "many.parquet")
    row = {"threads": 1, "quick": args.quick, "seconds": seconds, "megabytes": megabytes}
    found = seconds | {f"{what}, megabytes": size for what, size in megabytes.items()}
    targets = TARGETS | {f"{what}, megabytes": most for what, most in MEGABYTES.items()}
    return finish("scale", [judged(row, found, {} if args.quick else targets)], args.out, argv)


def large(seeds: int) -> dict[str, Any]:
    """Return the large study with this number of seeds, each of about 360 stages."""
    return _LARGE | {"seeds": list(range(seeds))}


def plan(file: str) -> None:
    """Plan a study as `tombola run` does."""
    _ = _folder(Path(file), Path("nowhere"), Path("no-stages")).outline


def _folder(file: Path, out: Path, store: Path) -> StudyFolder:
    return StudyFolder.of(yaml.safe_load(file.read_text()), out, store, file.parent)


def invent(file: Path, out: Path, store: Path) -> StudyFolder:
    """Make the folder of a finished study, whose stages nobody ran: its numbers are made up, its page is empty."""
    import numpy as np
    import torch

    from tombola.study.stages import Outcome

    folder, rng = _folder(file, out, store), np.random.default_rng(0)
    folder.prepare()
    made_up = Store(store)
    run = {"seconds": 1.0, "device": "cpu", "torch": torch.__version__, "threads": 1}
    metrics = [name for name in names("metric") if name not in ("accuracy", "density")]
    rows = {row.stage.key: row.labels for row in folder.plan.rows}
    for stage in folder.plan.stages:
        record: dict[str, Any] = {}
        if stage.kind == "train":
            record = {"train_seconds": 1.0, "train_flops": 1e9, "best_accuracy": 0.97, "steps": 200}
        elif stage.key in rows:
            density = (1 - _LARGE["prune"]["fraction"]) ** rows[stage.key]["level"]
            accuracy = 0.97 - 0.01 * rows[stage.key]["level"] / 20 + rng.normal(0, 0.002)
            record = {name: rng.uniform(0.01, 0.02) for name in metrics} | {"accuracy": accuracy, "density": density}
            record["layer_density"] = "{}"
        made_up.save(stage, Outcome(None, record), run)
    folder.write_records()
    (out / "report.html").touch()
    return folder


def many(records: Path, out: Path, count: int) -> None:
    """Write `count` records: those of one study, repeated for several nets in several settings."""
    import pandas as pd

    table, parts = pd.read_parquet(records), []
    for i in range(math.ceil(count / len(table))):
        settings = {"train.heat": 0.1 * (1 + i // len(_NETS)), "model.name": _NETS[i % len(_NETS)]}
        parts.append(table.assign(model=settings["model.name"], settings=json.dumps(settings), key=table["key"] + f"-{i}"))
    pd.concat(parts, ignore_index=True)[:count].to_parquet(out)


def _measured(code: str, *words: str | Path) -> dict[str, float]:
    """Return seconds and peak of resident memory of Python code in a process. Raises RuntimeError if it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as said, tempfile.NamedTemporaryFile() as memory:
        # not by `ru_maxrss`, which begins with the size of this process
        code = f"{_KEEP_STATUS}({memory.name!r},)); {code}"
        process = subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(map(str, words))} failed: {said.read().decode()[-1000:].strip()}")
        (peak,) = re.findall(rb"VmHWM:\s+(\d+) kB", memory.read())
    clock = time.perf_counter() - began
    return {"clock": clock, "processor": used.ru_utime + used.ru_stime, "megabytes": int(peak) / 1e3}


if __name__ == "__main__":
    sys.exit(main())
