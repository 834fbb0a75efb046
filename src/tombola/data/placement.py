"""The device by name, and placement of training data: on the device, or in its file and sent batch by batch."""

import os
from pathlib import Path

import torch

from tombola import streams
from tombola.errors import TombolaError
from tombola.settings import DataSettings

from .augment import flip_and_crop
from .batches import Batches, StreamedBatches, TensorBatches
from .dataset import Dataset

_SHARE = 0.5  # of the free memory; the rest is left to the network


def choose_device(name: str) -> torch.device:
    """Return the device of that name. Raises TombolaError where a GPU is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TombolaError("--device cuda, but torch sees no GPU; use --device cpu or install a CUDA build of torch")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def fits(data: Dataset, device: torch.device) -> bool:
    """Return whether the stored inputs take less than half of the device's free memory."""
    return data.nbytes < _SHARE * free_memory(device)


def free_memory(device: torch.device) -> int:
    """Return the free bytes; on a CPU of the system or of this process's control group, whichever has less."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    left = []
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        left.append(1024 * int(lines["MemAvailable"].split()[0]))
    except (OSError, KeyError, ValueError):  # no Linux
        left.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        group = Path("/sys/fs/cgroup")
        used, most = ((group / name).read_text() for name in ("memory.current", "memory.max"))
        left.append(int(most) - int(used))
    except (OSError, ValueError):  # no such group, or no limit ("max")
        pass
    return min(left)


def training_batches(
    data: Dataset, settings: DataSettings, batch_size: int, seed: streams.Word, device: torch.device
) -> Batches:
    """Return the training split in batches, augmented by the settings; the bits do not depend on the placement."""
    augment = None
    if settings.flip or settings.crop:
        augment = flip_and_crop(flip=settings.flip, crop=settings.crop, alternate=settings.alternate_flip)
    if data.streamed is not None:
        return data.streamed.batches(batch_size, seed, augment, data.prepare, device)
    resident = fits(data, device) if settings.resident is None else settings.resident
    if not resident:
        return StreamedBatches(*data.train, batch_size, seed, augment, data.prepare, device)
    inputs, targets = data.on(device).train
    return TensorBatches(inputs, targets, batch_size, seed, augment, data.prepare)
