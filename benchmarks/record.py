"""The record of a benchmark: its arguments, its targets, and a JSON file with hardware and versions."""

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
"""A measurement in plain JSON."""

PEERS = ("torch-blue", "bayesian-torch", "ivon-opt")
"""Packages to compare with, where they are installed."""

_PLACES = ("--path", "--store", "--out")
"""Options that name places on this machine, which a record leaves out."""


@dataclass(frozen=True)
class Verdict:
    """A target, the most that is allowed, and the value that was found."""

    what: str
    found: float
    target: float

    @property
    def met(self) -> bool:
        return self.found <= self.target

    def __str__(self) -> str:
        return f"{self.what}: {self.found:.3f}, target <= {self.target:.3f}: {'met' if self.met else 'MISSED'}"


def judged(row: Row, found: Mapping[str, float], targets: Mapping[str, float]) -> Row:
    """Return the row with a verdict for each target whose quantity was measured, after printing these."""
    made = [Verdict(what, found[what], target) for what, target in targets.items() if what in found]
    for verdict in made:
        print(f"  {verdict}")
    return row | {"verdicts": [asdict(verdict) for verdict in made]}


def parser(module: str, doc: str | None, *, timed: bool = True) -> argparse.ArgumentParser:
    """Return a parser of the options that all benchmarks have, or all that time something."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, help="write a JSON record here")
    if timed:
        made.add_argument("--quick", action="store_true", help="fewer repeats")
        made.add_argument("--threads", type=int, nargs="+", default=[1], help="threads of torch, one after another (1)")
    return made


def finish(benchmark: str, rows: list[Row], out: Path | None, argv: Sequence[str] | None, **more: Any) -> int:
    """Write the record if it is asked for, and return the exit code: 1 if a verdict of a row (`judged`) is a miss."""
    write(out, benchmark, rows, argv, **more)
    found = [Verdict(**verdict) for row in rows for verdict in row["verdicts"]]
    missed = [verdict for verdict in found if not verdict.met]
    for verdict in missed:
        print(f"missed: {verdict}", file=sys.stderr)
    return int(bool(missed))


def write(out: Path | None, benchmark: str, rows: list[Row], argv: Sequence[str] | None = None, **more: Any) -> None:
    """Write the record of these rows; nothing without `out`. argv: the arguments, by default those of the process."""
    if out is None:
        return
    found = {
        "benchmark": benchmark,
        "command": f"python -m benchmarks.{benchmark} {shlex.join(_shown(argv))}".strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "versions": versions(),
        "rows": rows,
        **more,
    }
    out.write_text(json.dumps(found, indent=1) + "\n")


def _shown(argv: Sequence[str] | None) -> list[str]:
    """Return the arguments without the places of this machine; `--path FILES` shows that there was data."""
    given, shown = iter(sys.argv[1:] if argv is None else argv), []
    for word in given:
        if word in _PLACES:
            next(given, "")
            shown += [word, "FILES"] if word == "--path" else []
        else:
            shown.append(word)
    return shown


def hardware() -> dict[str, Any]:
    """Return the processor's name, its instruction set as torch uses it and its cores, and the name of a GPU."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "cpu": _cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        **gpu,
    }


def versions() -> dict[str, str]:
    """Return the versions of Python, torch, tombola and the peers that are installed."""
    packages = {package: installed(package) for package in ("tombola", *PEERS)}
    found = {"python": platform.python_version(), "torch": torch.__version__}
    return found | {package: version for package, version in packages.items() if version is not None}


def installed(package: str) -> str | None:
    """Return the version of a package; None if it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
