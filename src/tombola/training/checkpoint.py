"""Checkpoints of a running training: a kill loses at most the time since the last one."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tombola import files
from tombola.errors import TombolaError
from tombola.posterior.layout import ORDER

QUICK = 1.2
"""Seconds of a checkpoint that are 2% of a minute, the default interval."""


class TimeUp(BaseException):
    """Signal that a run's time is over and all of it is saved. Not an Exception: nothing has failed."""


class Checkpoint:
    """One file, written aside and renamed, at most every `seconds`, and a last time at the time `ends` (of `time.time`).

    Writing takes at most 2% of the training at the default interval of a minute: where it takes longer than 1.2 seconds, of
    ten million weights or on a slow disk, the interval is longer in proportion.

    A resumed training has the same bits only with the same arithmetic. So the file keeps the torch build, the instruction
    set, the device and the number of threads; where one of them differs, `load` returns None.
    """

    def __init__(self, path: Path, seconds: float, ends: float = math.inf):
        self.path, self.seconds, self.ends = path, seconds, ends
        self._saved_at, self._took = time.monotonic(), 0.0

    @property
    def due(self) -> bool:
        interval = self.seconds * max(1.0, self._took / QUICK)
        return time.monotonic() - self._saved_at >= interval or time.time() >= self.ends

    def save(self, tensors: dict[str, Tensor], description: dict[str, Any], device: torch.device) -> None:
        """Save all. Raises TimeUp afterwards if the time is over."""
        began = time.monotonic()
        self.write(tensors, {**description, "order": ORDER, "arithmetic": arithmetic(device)})
        self._saved_at = time.monotonic()
        self._took = self._saved_at - began
        if time.time() >= self.ends:
            raise TimeUp

    def write(self, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
        """Write the file."""
        files.write(self.path, tensors, description)

    def load(self, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Load the last checkpoint; None if it is missing, damaged, or of another flat order, torch build, CPU or device."""
        try:
            tensors, description = files.read(self.path)
        except TombolaError:
            return None
        same = description.get("order") == ORDER and description["arithmetic"] == arithmetic(device)
        return (tensors, description) if same else None


def arithmetic(device: torch.device) -> dict[str, Any]:
    """Return all that the last bits of a result depend on, beside the settings."""
    on_gpu = device.type == "cuda"
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
