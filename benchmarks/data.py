"""The cost of an epoch of augmented images: python -m benchmarks.data [--quick] [--threads 1 2] [--path FILES].

50,000 images of 3x32x32 in batches of 128: gathered, mirrored and cropped (padding 4), normalised to floats; resident, and
streamed from a memory map. Before anything is timed, one batch is compared with a loop over its images. Noise images unless
--path names CIFAR-10 or the like. Exit code 1 when the target is missed.
"""

import statistics
import sys
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.record import finish, judged, parser
from tombola import streams
from tombola.data import IMAGENET, Dataset, Normalise, huggingface, training_batches
from tombola.data.batches import TensorBatches
from tombola.settings import DataSettings

_TARGET = 8.0  # seconds an epoch of 50,000 images
_IMAGES = 50_000
_CROP = 4


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("data", __doc__)
    arguments.add_argument("--batch", type=int, default=128, help="images a batch (128)")
    arguments.add_argument("--images", type=int, default=_IMAGES, help="noise images; other numbers have no target (50,000)")
    arguments.add_argument("--path", help="Hugging Face data instead of noise, as path/of/cifar10/*.parquet")
    args = arguments.parse_args(argv)
    data = huggingface(args.path) if args.path else noise(args.images)
    _assert_correct(data)
    rows = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for how, resident in (("resident", True), ("streamed", False)):
            settings = DataSettings(flip=True, crop=_CROP, resident=resident)
            batches = training_batches(data, settings, args.batch, 0, torch.device("cpu"))
            times = [_epoch(batches, epoch) for epoch in range(3 if args.quick else 9)]
            seconds = statistics.median(times[1:])  # the first warms up
            print(f"{data.name}, {how}, batch {args.batch}, {threads} thread(s): {seconds:.2f} s an epoch")
            row = {"data": data.name, "images": len(data.train[0]), "how": how, "batch": args.batch, "threads": threads}
            targets = {how: _TARGET} if len(data.train[0]) == _IMAGES else {}
            rows.append(judged({**row, "seconds": seconds, "times": times}, {how: seconds}, targets))
    return finish("data", rows, args.out, argv)


def _epoch(batches: TensorBatches, epoch: int) -> float:
    began = time.perf_counter()
    for inputs, _ in batches.epoch(epoch):
        assert inputs.dtype == torch.float32
    return time.perf_counter() - began


def noise(train: int, test: int = 10) -> Dataset:
    """Return random images of CIFAR-10's shape, with labels."""
    stream = streams.generator("benchmark")
    inputs = torch.randint(256, (train + test, 3, 32, 32), generator=stream, dtype=torch.uint8)
    targets = torch.arange(train + test) % 10
    parts = (inputs[:train], targets[:train]), (inputs[:0], targets[:0]), (inputs[train:], targets[train:])
    return Dataset("noise", *parts, Normalise(*IMAGENET, 255.0))


def _assert_correct(data: Dataset) -> None:
    """Assert that the first batch equals one made image by image: mirrored, padded, cut, then normalised."""
    batches = training_batches(data, DataSettings(flip=True, crop=_CROP), 128, 0, torch.device("cpu"))
    images = len(data.train[0])
    order = torch.randperm(images, generator=streams.generator("order", 0, 0))[:128]
    stream = streams.generator("augment", 0, 0)
    mirrored = torch.rand(images, generator=stream) < 0.5
    top, left = torch.randint(2 * _CROP + 1, (2, images), generator=stream)
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
