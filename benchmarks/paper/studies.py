"""All studies of the paper at one size, with their costs.

Runs each by `tombola run paper/NAME`, as a user would, one after another on one store, so that shared stages run once.
Writes records.parquet and views.parquet of all, and record.json with each study's cost, the hardware and the versions. It
resumes where it was stopped. A study's `wall_seconds` are by the clock, with the start of Python and its page (a killed run
does not count); its `alone_seconds` are the seconds of all its stages, the shared ones too, over the processes.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from benchmarks.quietly import write
from tombola.engine import records
from tombola.engine.folder import StudyFolder
from tombola.engine.records import stage_times
from tombola.engine.store import missing
from tombola.study.spec import read, shipped
from tombola.study.stages import Train

ORDER = ("scores", "layers", "randomise", "transplant", "rewind", "rate", "calibration", "size", "robustness")
"""The order of the studies: a shared stage counts for the first."""


def run(args: argparse.Namespace) -> int:
    """Run the missing stages and write the results; return the exit code."""
    runs = args.runs or Path("runs") / f"paper-{args.size}"
    out = args.out or Path("results") / f"paper-{args.size}"
    changes = [f"size={args.size}", f"data.args.path={args.path}"]
    changes += [f"seeds={list(range(args.seeds))}"] if args.seeds else []
    assert {f"paper/{name}" for name in ORDER} == {name for name in shipped() if name.startswith("paper/")}
    for name in ORDER:
        if code := _run(name, runs / name, changes, args.jobs):
            return code
    _write(out, runs, args)
    return 0


def _run(name: str, folder: Path, changes: list[str], jobs: int) -> int:
    """Run the study and note its seconds, unless it is finished; return the exit code."""
    study = StudyFolder.of(read(f"paper/{name}", changes), folder, None, Path())
    if (folder / "report.html").is_file() and not missing(study.plan, study.store):
        return 0
    settings = [word for change in changes for word in ("--set", change)]
    command = [str(Path(sys.executable).with_name("tombola")), "run", f"paper/{name}", "--out", str(folder)]
    began = time.monotonic()
    code = subprocess.run([*command, "--jobs", str(jobs), *settings], check=False).returncode
    _spent(folder).write_text(json.dumps([*_seconds(folder), time.monotonic() - began]))
    return code


def _spent(folder: Path) -> Path:
    """Return the file that keeps the seconds of each run, beside the study's folder."""
    return folder.with_suffix(".seconds.json")


def _seconds(folder: Path) -> list[float]:
    return json.loads(_spent(folder).read_text()) if _spent(folder).is_file() else []


def _write(out: Path, runs: Path, args: argparse.Namespace) -> None:
    out.mkdir(parents=True, exist_ok=True)
    folders = {name: StudyFolder.open(runs / name) for name in ORDER}
    tables = {name: pd.read_parquet(runs / name / "records.parquet") for name in ORDER}
    analyses = [pd.read_parquet(path) for name in ORDER if (path := runs / name / "views.parquet").is_file()]
    records.write(pd.concat(tables.values(), ignore_index=True), out / "records.parquet")
    records.write(pd.concat(analyses, ignore_index=True), out / "views.parquet")
    rows, seen = [], set[str]()
    for name, folder in folders.items():
        own = folder.plan.stages
        new = [stage for stage in own if stage.key not in seen]
        seen |= {stage.key for stage in own}
        rows.append(
            {
                "study": f"paper/{name}",
                "wall_seconds": sum(_seconds(folder.path)),
                "alone_seconds": float(stage_times(folder.plan, folder.store)["seconds"].sum()) / args.jobs,
                "stages": len(own),
                "stages_run": len(new),
                "trainings": sum(isinstance(stage, Train) for stage in own),
                "trainings_run": sum(isinstance(stage, Train) for stage in new),
            }
        )
    write(out / "record.json", "paper", [], size=args.size, jobs=args.jobs, seeds=args.seeds, studies=rows)
