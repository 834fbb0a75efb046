"""Saving a training on its way, so that a kill loses at most the time since the last save."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tombola import files
from tombola.errors import TombolaError


class TimeUp(BaseException):
    """A run was given until now, and has come to where nothing is lost if it stops. No Exception: nothing has failed."""


class Checkpoint:
    """One file, written aside and renamed, at most every `seconds`, and a last time when `ends` (by `time.time`) has come.

    It goes on with the same bits only where arithmetic is the same, so it keeps the torch build, the instruction set, the
    device and the number of threads; where one of them differs it is as if there were no checkpoint.
    """

    def __init__(self, path: Path, seconds: float, ends: float = math.inf):
        self.path, self.seconds, self.ends = path, seconds, ends
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.seconds or time.time() >= self.ends

    def save(self, tensors: dict[str, Tensor], description: dict[str, Any], device: torch.device) -> None:
        """Raises TimeUp, once all is saved, if it ends now."""
        files.write(self.path, tensors, {**description, "arithmetic": arithmetic(device)})
        self._saved_at = time.monotonic()
        if time.time() >= self.ends:
            raise TimeUp

    def load(self, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved last, or None: nothing, a damaged file, or one of another arithmetic."""
        try:
            tensors, description = files.read(self.path)
        except TombolaError:
            return None
        return (tensors, description) if description["arithmetic"] == arithmetic(device) else None


def arithmetic(device: torch.device) -> dict[str, Any]:
    """What the last bits of a result depend on, beside the settings."""
    on_gpu = device.type == "cuda"
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
