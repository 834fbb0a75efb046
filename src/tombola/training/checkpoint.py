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


class TimeUp(BaseException):
    """Signal that a run's time is over and all of it is saved. Not an Exception: nothing has failed."""


class Checkpoint:
    """One file, written aside and renamed, at most every `seconds`, and a last time at the time `ends` (of `time.time`).

    A resumed training has the same bits only with the same arithmetic. So the file keeps the torch build, the instruction
    set, the device and the number of threads; where one of them differs, `load` returns None.
    """

    def __init__(self, path: Path, seconds: float, ends: float = math.inf):
        self.path, self.seconds, self.ends = path, seconds, ends
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.seconds or time.time() >= self.ends

    def save(self, tensors: dict[str, Tensor], description: dict[str, Any], device: torch.device) -> None:
        """Save all. Raises TimeUp afterwards if the time is over."""
        files.write(self.path, tensors, {**description, "order": ORDER, "arithmetic": arithmetic(device)})
        self._saved_at = time.monotonic()
        if time.time() >= self.ends:
            raise TimeUp

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
