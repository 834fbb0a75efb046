"""Where a training's batches come from: tensors on the device, or the caller's own loader.

Legend: N examples, B examples of a batch.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Protocol

import torch
from torch import Tensor

from . import streams
from .errors import TombolaError
from .posterior.batch import Batch, moved

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""(an epoch's inputs [N, ...], the epoch's stream) -> inputs of the same shape. Drawn once an epoch, before it is cut."""


class Batches(Protocol):
    """What the training loop needs of data."""

    examples: int
    """N, of the KL's weight heat / N."""
    steps: int
    """Batches of an epoch."""

    def epoch(self, epoch: int, skip: int) -> Iterator[Batch]:
        """The batches of that epoch from the `skip`-th on: the same at every call."""
        ...


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Batches of an epoch of TensorBatches."""
    full, rest = divmod(examples, batch_size)
    # a last batch of one example, which batch norm cannot normalise, joins the one before
    return max(1, full + (rest > 1))


class TensorBatches:
    """Shuffled batches from tensors on one device, without a data loader."""

    def __init__(self, inputs: Tensor, targets: Tensor, batch_size: int, seed: int, augment: Augment | None = None):
        if len(inputs) != len(targets) or not len(inputs):
            raise TombolaError(f"there are {len(inputs)} inputs for {len(targets)} targets; give as many, at least one")
        self.inputs, self.targets, self.batch_size = inputs, targets, batch_size
        self.seed, self.augment = seed, augment
        self.examples = len(inputs)
        self.steps = steps_per_epoch(self.examples, batch_size)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        order = torch.randperm(self.examples, generator=streams.generator("order", self.seed, epoch))
        inputs, device = self.inputs, self.inputs.device
        if self.augment is not None:
            inputs = self.augment(inputs, streams.generator("augment", self.seed, epoch, device=device))
        order = order.to(device)
        for i in range(skip, self.steps):
            last = i == self.steps - 1
            rows = order[i * self.batch_size :] if last else order[i * self.batch_size : (i + 1) * self.batch_size]
            yield inputs[rows], self.targets[rows]


class LoaderBatches:
    """The caller's own loader of batches (pairs or mappings), moved to a device.

    `loader` is iterated anew each epoch. A resumed run has the same batches if the loader repeats itself. One that shuffles
    by torch's global randomness (a DataLoader without a generator) does: the training loop seeds that by the epoch.
    """

    def __init__(self, loader: Iterable[Batch], examples: int | None = None, device: torch.device | str = "cpu"):
        """examples: N of the whole training set; by default the length of the loader's `dataset`.

        Raises TombolaError for a loader without a length, one that can be iterated only once, and where N is not known.
        """
        name = type(loader).__name__
        if not isinstance(loader, Sized):
            raise TombolaError(f"the loader {name} has no length (its batches of an epoch); give one that has, as a list")
        if not len(loader):
            raise TombolaError(f"the loader {name} is empty; give at least one batch")
        if examples is None:
            if not isinstance(dataset := getattr(loader, "dataset", None), Sized):
                raise TombolaError(f"of the loader {name} the number of training examples is not known; give `examples`")
            examples = len(dataset)
        if examples < 1:
            raise TombolaError(f"examples is {examples}; it must be at least 1")
        self._loader, self._device = loader, torch.device(device)
        self.examples, self.steps = examples, len(loader)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        for i, batch in enumerate(self._loader):
            if i >= skip:
                yield moved(batch, self._device)


def random_shift(padding: int) -> Augment:
    """Each image [C, H, W] moved by up to `padding` pixels in each direction, zeros moving in."""

    def augment(images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        n, _, height, width = images_NCHW.shape
        padded = torch.nn.functional.pad(images_NCHW, [padding] * 4)
        shift = torch.randint(2 * padding + 1, (2, n, 1), generator=generator, device=images_NCHW.device)
        rows = shift[0] + torch.arange(height, device=images_NCHW.device)  # [N, H]
        columns = shift[1] + torch.arange(width, device=images_NCHW.device)  # [N, W]
        image = torch.arange(n, device=images_NCHW.device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    return augment
