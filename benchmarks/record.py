"""What every benchmark shares: its arguments, its verdicts, and the JSON record with hardware and versions."""

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

PEERS = ("torch-blue", "bayesian-torch", "ivon-opt")
"""The packages that are compared with, where they are installed."""


@dataclass(frozen=True)
class Verdict:
    """A target and what was found; the target is the most that is allowed."""

    what: str
    found: float
    target: float

    @property
    def met(self) -> bool:
        return self.found <= self.target

    def __str__(self) -> str:
        return f"{self.what}: {self.found:.3f}, target <= {self.target:.3f}: {'met' if self.met else 'MISSED'}"


def verdicts(found: Mapping[str, float], targets: Mapping[str, float]) -> list[Verdict]:
    """One for each target whose quantity was measured."""
    return [Verdict(what, found[what], target) for what, target in targets.items() if what in found]


def parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    """The arguments that all have."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="fewer repeats")
    made.add_argument("--threads", type=int, nargs="+", default=[1], help="threads of torch, one after another (1)")
    made.add_argument("--out", type=Path, help="write a JSON record here")
    return made


def finish(benchmark: str, argv: Sequence[str], out: Path | None, rows: list[dict[str, Any]]) -> int:
    """Writes the record if it is asked for. Returns the exit code: 1 if a verdict among the rows is a miss.

    Each row is a measurement in plain JSON, with its `threads` and its `verdicts`.
    """
    if out is not None:
        out.write_text(json.dumps(record(benchmark, argv, rows), indent=1) + "\n")
    missed = [Verdict(**verdict) for row in rows for verdict in row["verdicts"] if not Verdict(**verdict).met]
    for verdict in missed:
        print(f"missed: {verdict}", file=sys.stderr)
    return int(bool(missed))


def record(benchmark: str, argv: Sequence[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What was measured, where and with what."""
    return {
        "benchmark": benchmark,
        "command": f"python -m benchmarks.{benchmark} {shlex.join(argv)}".strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "versions": versions(),
        "rows": rows,
    }


def as_json(found: Sequence[Verdict]) -> list[dict[str, Any]]:
    return [asdict(verdict) for verdict in found]


def hardware() -> dict[str, Any]:
    """Of the processor its name, instruction set as torch uses it and cores, and of a GPU its name."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "cpu": _cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        **gpu,
    }


def versions() -> dict[str, str]:
    """Of Python, torch, tombola and the peers that are installed."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("tombola", *PEERS):
        if (version := installed(package)) is not None:
            found[package] = version
    return found


def installed(package: str) -> str | None:
    """The version of a package; None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def say_missing_peers() -> None:
    """A line for each peer that is not there."""
    for package in PEERS:
        if installed(package) is None:
            print(f"{package} is not installed: nothing of it is measured (see the extra `peers`)")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
