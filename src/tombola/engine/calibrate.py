"""Timing a few real steps of each kind of training before anything of it has run, for a first forecast.

Nothing is kept of it but the time: the steps are taken in memory, from the dense start, in streams of their own.
"""

import itertools
import json
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

from tombola.files import written_aside
from tombola.study.stages import RunContext, Train, ancestors
from tombola.training.checkpoint import arithmetic

from .forecast import Data, Forecast, Kind

_STEPS, _SECONDS = 5, 3.0  # for each kind: so many steps after the first, or those of so many seconds
_ALTOGETHER = 20.0  # seconds; kinds that are left then wait for their own steps


@dataclass
class Guesses:
    """Seconds a step by kind of training, and (device, threads) of where they were timed."""

    where: tuple[str, int] = ("", 0)
    seconds: dict[Kind, float] = field(default_factory=dict)

    def give(self, forecast: Forecast, where: tuple[str, int] | None) -> None:
        """To the forecast of a run at `where`; None: wherever it will be."""
        if where is None or where == self.where:
            for kind, seconds in self.seconds.items():
                forecast.guess(kind, seconds)

    def joined(self, later: "Guesses") -> "Guesses":
        """With what was timed later; alone that, where it was timed elsewhere."""
        if not later.seconds:
            return self
        return Guesses(later.where, (self.seconds if self.where == later.where else {}) | later.seconds)

    def write(self, path: Path) -> None:
        """Write them to a file; a full disk stops others, to whom it matters more."""
        text = json.dumps({"where": self.where, "seconds": [[list(k), s] for k, s in self.seconds.items()]}, indent=1)
        with suppress(OSError), written_aside(path) as aside:
            aside.write_text(text)

    @classmethod
    def read(cls, path: Path) -> "Guesses":
        """What is there; nothing where the file is missing or damaged."""
        try:
            given = json.loads(path.read_text())
            device, threads = given["where"]
            return cls((str(device), int(threads)), {tuple(kind): float(seconds) for kind, seconds in given["seconds"]})
        except (OSError, ValueError, KeyError, TypeError):
            return cls()


def calibrate(forecast: Forecast, device: torch.device, data: Data, before: Guesses) -> Guesses:
    """Gives the forecast a pace for each kind of training that it has none for; kinds that cannot be trained get none.

    before: what was timed earlier and need not be again. Returns it with what is new.
    """
    where, began = here(device), time.monotonic()
    guesses = Guesses(where, dict(before.seconds) if before.where == where else {})
    guesses.give(forecast, where)
    for kind, stage in forecast.untimed().items():
        if time.monotonic() - began > _ALTOGETHER:
            break
        seconds = step_seconds(stage, device, data)
        if seconds is not None:
            guesses.seconds[kind] = seconds
            forecast.guess(kind, seconds)
    return guesses


def here(device: torch.device) -> tuple[str, int]:
    """What a pace depends on beside the stage: the device's name, and torch's threads."""
    there = arithmetic(device)
    return there["device"], there["threads"]


def step_seconds(stage: Train, device: torch.device, data: Data) -> float | None:
    """Median seconds of the first few steps after the first; None if there is only one, or if training fails."""
    marks: list[float] = []

    def on_step(done: int, total: int) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        marks.append(time.monotonic())
        if len(marks) > _STEPS or (len(marks) > 1 and marks[-1] - marks[0] > _SECONDS):
            raise _Enough

    context = RunContext(device, data, on_step=on_step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when the stage runs
        try:
            start = ancestors(stage)[0].run([], context)
            assert start.ticket is not None
            stage.run([start.ticket], context)
        except _Enough:
            pass
        except Exception:  # said when the stage runs
            return None
    steps = [after - before for before, after in itertools.pairwise(marks)]
    return median(steps) if steps else None


class _Enough(BaseException):
    """Ends a training that was only begun for its pace."""
