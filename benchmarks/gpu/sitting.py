"""One sitting at a piece: what was measured before is kept, the time is limited, and a kill loses one row at most."""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import hardware, versions
from tombola.errors import TombolaError
from tombola.training.checkpoint import Checkpoint, TimeUp

Row = dict[str, Any]

MACHINE = ("hardware", "versions")
"""What a record tells of the machine."""


class Sitting:
    """The record OUT/PIECE.json, row by row, and files of work in progress in OUT/PIECE/.

    Each row is written when it is there: aside, then renamed. Raises TombolaError for a record of another set-up: rows of
    one record are comparable.
    """

    def __init__(
        self,
        piece: str,
        out: Path,
        setup: dict[str, Any],
        minutes: float,
        device: torch.device,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = print,
        same: Sequence[str] = ("setup", *MACHINE),
    ):
        """setup: what all rows have in common (data, sizes), beside the machine. clock: in seconds. same: what of a record
        has to be as it is here; of what may differ each sitting has its own."""
        self.path, self.files, self.device, self.say = out / f"{piece}.json", out / piece, device, say
        self._clock, self._end, self._began = clock, clock() + 60 * minutes, False
        here = json.loads(json.dumps({"setup": setup, **machine(device)}))
        self.record: dict[str, Any] = {"piece": piece, **here, "sittings": [], "rows": {}}
        if self.path.is_file():
            found = json.loads(self.path.read_text())
            for name in same:
                if found[name] != here[name]:
                    raise TombolaError(
                        f"{self.path} has {name} {found[name]}, this one has {here[name]}; give another --out"
                    )
            self.record = found
        self.record["sittings"].append(
            {"date": datetime.now(UTC).isoformat(timespec="seconds"), "command": "python -m benchmarks.gpu " + _arguments()}
            | {name: value for name, value in here.items() if value != self.record[name]}
        )

    @property
    def rows(self) -> dict[str, Row]:
        return self.record["rows"]

    @property
    def over(self) -> bool:
        return self._clock() >= self._end

    def row(self, name: str, make: Callable[[], Row], needs: float = 0.0) -> Row:
        """The row of that name: as recorded, or made now and recorded. needs: minutes that it takes in one go.

        Raises TimeUp where the time is over, or where less than `needs` is left of it and something was done already.
        """
        if name in self.rows:
            return self.rows[name]
        if self.over or (self._began and self._clock() + 60 * needs > self._end):
            raise TimeUp
        self._began = True
        self.rows[name] = make()
        self.write()
        return self.rows[name]

    def checkpoint(self, name: str, seconds: float = 60.0) -> Checkpoint:
        """Of a training that is longer than a sitting: saves it when the time is over, then raises TimeUp."""
        return self.checkpoint_at(self.file(name, "checkpoint"), seconds)

    def checkpoint_at(self, path: Path, seconds: float) -> Checkpoint:
        """The same in a file of the caller's."""
        return _LastOfSitting(path, seconds, self)

    def file(self, name: str, kind: str) -> Path:
        self.files.mkdir(parents=True, exist_ok=True)
        return self.files / f"{re.sub(r'[^a-z0-9.]+', '-', name.lower())}.{kind}.safetensors"

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(f".{os.getpid()}.part")
        aside.write_text(json.dumps(self.record, indent=1) + "\n")
        aside.replace(self.path)


class _LastOfSitting(Checkpoint):
    def __init__(self, path: Path, seconds: float, sitting: Sitting):
        super().__init__(path, seconds)
        self._sitting = sitting

    @property
    def due(self) -> bool:
        return super().due or self._sitting.over

    def save(self, tensors: dict[str, torch.Tensor], description: dict[str, Any], device: torch.device) -> None:
        super().save(tensors, description, device)
        if self._sitting.over:
            raise TimeUp


def machine(device: torch.device) -> dict[str, Any]:
    """Hardware and versions."""
    found: dict[str, Any] = {"device": "cpu", "threads": torch.get_num_threads()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "tf32": {"cudnn": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32},
        }
    return {"hardware": hardware() | found, "versions": versions()}


def _arguments() -> str:
    return " ".join(sys.argv[1:])
