"""What an epoch of augmented images costs: python -m benchmarks.data [--quick] [--threads N] [--path FILES].

50,000 images of 3x32x32 in batches of 128: gathered, mirrored and cropped (padding 4), normalised to floats; resident, and
streamed from a memory map. Before anything is timed, one batch is compared with a loop over its images. Noise images unless
--path names CIFAR-10 or the like. Exit code 1 when the target is missed.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from tombola import streams
from tombola.data import IMAGENET, Dataset, Normalise, huggingface, training_batches
from tombola.settings import DataSettings

_TARGET = 8.0  # seconds an epoch of 50,000 images
_IMAGES = 50_000
_CROP = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    parser.add_argument("--batch", type=int, default=128, help="images a batch (128)")
    parser.add_argument("--path", help="Hugging Face data instead of noise, as path/of/cifar10/*.parquet")
    parser.add_argument("--out", type=Path, help="write a JSON record here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = huggingface(args.path) if args.path else _noise()
    assert len(data.train[0]) == _IMAGES, f"{data.name} has {len(data.train[0])} training images, not {_IMAGES}"
    _assert_correct(data)
    rows, missed = [], False
    for label, resident in (("resident", True), ("streamed", False)):
        settings = DataSettings(flip=True, crop=_CROP, resident=resident)
        batches = training_batches(data, settings, args.batch, 0, torch.device("cpu"))
        times = []
        for epoch in range(3 if args.quick else 9):
            began = time.perf_counter()
            for inputs, _ in batches.epoch(epoch):
                assert inputs.dtype == torch.float32
            times.append(time.perf_counter() - began)
        seconds = statistics.median(times[1:])  # the first warms up
        hit = seconds <= _TARGET
        missed |= not hit
        print(f"{data.name}, {label}, batch {args.batch}, {args.threads} thread(s): {seconds:.2f} s an epoch   ", end="")
        print(f"target <= {_TARGET:.0f} s: {'met' if hit else 'MISSED'}")
        rows.append({"data": data.name, "how": label, "batch": args.batch, "seconds": seconds, "times": times})
    if args.out:
        record = {
            "command": "python -m benchmarks.data " + " ".join(sys.argv[1:]),
            "date": datetime.now(UTC).date().isoformat(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "machine": platform.machine(),
            "threads": args.threads,
            "rows": rows,
        }
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    return int(missed)


def _noise() -> Dataset:
    stream = streams.generator("benchmark")
    inputs = torch.randint(256, (_IMAGES, 3, 32, 32), generator=stream, dtype=torch.uint8)
    train = inputs, torch.arange(_IMAGES) % 10
    few = inputs[:10], train[1][:10]
    return Dataset("noise", train, few, few, Normalise(*IMAGENET, 255.0))


def _assert_correct(data: Dataset) -> None:
    """The first batch equals one made image by image: mirrored, padded, cut, then normalised."""
    batches = training_batches(data, DataSettings(flip=True, crop=_CROP), 128, 0, torch.device("cpu"))
    order = torch.randperm(_IMAGES, generator=streams.generator("order", 0, 0))[:128]
    stream = streams.generator("augment", 0, 0)
    mirrored = torch.rand(_IMAGES, generator=stream) < 0.5
    top, left = torch.randint(2 * _CROP + 1, (2, _IMAGES), generator=stream)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)

    def alone(row: Tensor) -> Tensor:
        image = data.train[0][row].flip(-1) if mirrored[row] else data.train[0][row]
        cut = F.pad(image, [_CROP] * 4)[:, top[row] : top[row] + 32, left[row] : left[row] + 32]
        return (cut.float() / 255 - mean) / std

    inputs, targets = next(iter(batches.epoch(0)))
    torch.testing.assert_close(inputs, torch.stack([alone(row) for row in order]))
    assert torch.equal(targets, data.train[1][order])


if __name__ == "__main__":
    sys.exit(main())
