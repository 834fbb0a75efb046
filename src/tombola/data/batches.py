"""Batches of a training: from tensors on the device, from tensors elsewhere, or from the caller's own loader.

Legend: N examples, B examples of a batch.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import data as loading

from tombola import streams
from tombola.errors import TombolaError
from tombola.posterior.arrays import as_tensors
from tombola.posterior.batch import Batch, moved

from .augment import Augment, Draw

_AHEAD = 4  # batches that a StreamedBatches reads before they are asked for
_AT_ONCE = 1 << 27  # bytes of prepared inputs that a GPU makes in one go: launches, not bytes, are what small images cost it

Prepare = Callable[[Tensor], Tensor]
"""Function from stored inputs to the network's inputs, as `Dataset.prepare`."""


class Batches(Protocol):
    """Protocol of the data that the training loop reads."""

    examples: int
    """Number N of training examples: the KL's weight is heat / N."""
    steps: int
    """Number of batches in an epoch."""

    def epoch(self, epoch: int, skip: int) -> Iterator[Batch]:
        """Yield the batches of that epoch from the `skip`-th on, the same at every call."""
        ...


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Return the number of batches in an epoch of TensorBatches."""
    full, rest = divmod(examples, batch_size)
    # a last batch of one example, which batch norm cannot normalise, joins the one before
    return max(1, full + (rest > 1))


class TensorBatches:
    """Shuffled batches from tensors on one device, without a data loader.

    The inputs of a batch are gathered, augmented, then prepared, on that device. Order and augmentation have streams of
    their own, named by seed and epoch.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        batch_size: int,
        seed: streams.Word,
        augment: Augment | None = None,
        prepare: Prepare | None = None,
        device: torch.device | str | None = None,
    ):
        """Take the tensors. device: of the batches, by default that of the inputs."""
        if len(inputs) != len(targets) or not len(inputs):
            raise TombolaError(f"there are {len(inputs)} inputs for {len(targets)} targets; give as many, at least one")
        self.inputs, self.targets, self.batch_size = inputs, targets, batch_size
        self.seed, self.augment, self.prepare = seed, augment, prepare
        self.device = inputs.device if device is None else torch.device(device)
        self.examples = len(inputs)
        self.steps = steps_per_epoch(self.examples, batch_size)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the batches of that epoch from the `skip`-th on."""
        order, draw = self.drawn(epoch)
        order = self._placed(order)
        ends = [*range(self.batch_size, self.steps * self.batch_size, self.batch_size), self.examples]
        starts, count = [0, *ends], self._at_once()
        groups = [starts[i : i + count + 1] for i in range(skip, self.steps, count)]
        rows = (order[group[0] : group[-1]] for group in groups)
        for group, (inputs, targets, chosen) in zip(groups, self._gathered(rows), strict=True):
            if draw is not None:
                inputs = draw(inputs, chosen)
            inputs = inputs if self.prepare is None else self.prepare(inputs)
            sizes = [stop - start for start, stop in pairwise(group)]
            yield from zip(inputs.split(sizes), targets.split(sizes), strict=True)

    def drawn(self, epoch: int) -> tuple[Tensor, Draw | None]:
        """Return what is random in that epoch: the order of its rows, [N] on the CPU, and the augmentation."""
        draw = None if self.augment is None else self.augment(self.examples, self.seed, epoch, self.device)
        return torch.randperm(self.examples, generator=streams.generator("order", self.seed, epoch)), draw

    def _at_once(self) -> int:
        """Return the number of batches prepared together; on a CPU one, which stays in its cache."""
        if self.device.type == "cpu":
            return 1
        return max(1, _AT_ONCE // (4 * self.inputs[0].numel() * self.batch_size))

    def _placed(self, order: Tensor) -> Tensor:
        """Move the epoch's order [N] to where rows are gathered: a copy for each batch would synchronise at every step."""
        return order.to(self.device)

    def _gathered(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (inputs, targets, rows) of each batch, on the device."""
        for rows in batches:
            # not inputs[rows], which is four times slower for small images
            yield self.inputs.index_select(0, rows), self.targets[rows], rows


class StreamedBatches(TensorBatches):
    """The same batches, bit for bit, from tensors that need not fit on the device or in memory (a memory map).

    A thread gathers the next batches while the device works on this one.
    """

    def _placed(self, order: Tensor) -> Tensor:
        return order  # rows are gathered where the tensors are

    def _at_once(self) -> int:
        return 1

    def _gathered(self, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        def read(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return tuple(self._sent(t) for t in (self.inputs.index_select(0, rows), self.targets[rows], rows))  # type: ignore[return-value]

        waiting: deque[Future[tuple[Tensor, Tensor, Tensor]]] = deque()
        with ThreadPoolExecutor(1, "batches") as reader:
            try:
                for rows in batches:
                    waiting.append(reader.submit(read, rows))
                    if len(waiting) > _AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:  # the training has stopped in the middle of the epoch
                for future in waiting:
                    future.cancel()

    def _sent(self, value: Tensor) -> Tensor:
        # from pinned memory the copy runs beside the device's work
        return value.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else value


class LoaderBatches:
    """Batches (pairs or mappings) of the caller's own loader, moved to a device.

    The loader is iterated anew each epoch. A resumed run has the same batches if the loader repeats itself. A DataLoader
    without a generator does: it shuffles by torch's global randomness, which the training loop seeds by the epoch.
    """

    def __init__(self, loader: Iterable[Batch], examples: int | None = None, device: torch.device | str = "cpu"):
        """Take the loader. examples: N of the whole training set; by default the examples of a data set that it draws.

        Raises TombolaError for a loader without a length, one that can be iterated only once, and where N is not known.
        """
        name = type(loader).__name__
        if isinstance(loader, loading.Dataset) and not isinstance(loader, loading.IterableDataset):
            raise TombolaError(
                f"{name} is a data set, which gives single examples; give a torch.utils.data.DataLoader of it"
            )
        try:
            steps = len(loader)  # type: ignore[arg-type]
        except TypeError:  # of a loader, or of the data set in it
            raise TombolaError(
                f"the loader {name} has no length (its batches of an epoch); give one that has, as a list"
            ) from None
        if not steps:
            raise TombolaError(f"the loader {name} is empty; give at least one batch")
        examples = examples_drawn(loader) if examples is None else examples
        if examples is None:
            raise TombolaError(
                f"the number of training examples of the loader {name} is not known, from its data set and sampler; give "
                "`examples`"
            )
        if examples < 1:
            raise TombolaError(f"examples is {examples}; it must be at least 1")
        self._loader, self._device = loader, torch.device(device)
        self.examples, self.steps = examples, steps

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the batches as `Batches.epoch` does.

        Raises TombolaError if they are fewer than its length, or of a stream with several workers if they are more.
        """
        given = 0
        batches = iter(self._loader)
        for batch in batches:
            given += 1
            if given == self.steps and _of_many_streams(self._loader) and next(batches, None) is not None:
                raise TombolaError(
                    f"the loader gives more batches than its length, {self.steps}, as where each of its workers gives all "
                    "examples; share them in the data set by torch.utils.data.get_worker_info(), or set num_workers to 1"
                )
            if given > skip:
                yield moved(as_tensors(batch), self._device)
        if given < self.steps:
            raise TombolaError(
                f"the loader {type(self._loader).__name__} gave {given} batches in epoch {epoch + 1}, its length is "
                f"{self.steps}; it must give as many each time it is iterated"
            )


def _of_many_streams(loader: Any) -> bool:
    return (
        isinstance(loader, loading.DataLoader)
        and isinstance(loader.dataset, loading.IterableDataset)
        and loader.num_workers > 1
    )


def examples_drawn(loader: Any) -> int | None:
    """Return the number of different examples that a loader draws over many epochs; None if it is not known.

    It is not known for a sampler, or batch sampler, of another kind than torch's uniform ones: weighted, or of the user.
    """
    dataset = getattr(loader, "dataset", None)
    if not isinstance(dataset, Sized):
        return None
    if not isinstance(loader, loading.DataLoader):
        return len(dataset)
    if isinstance(dataset, loading.IterableDataset):
        return len(loader) * (loader.batch_size or 1) if loader.drop_last else len(dataset)
    batches = loader.batch_sampler
    if type(batches) is not loading.BatchSampler:  # None where the data set itself gives batches
        return None
    sampler: Any = batches.sampler
    if isinstance(sampler, loading.RandomSampler):
        return len(sampler.data_source)
    if isinstance(sampler, loading.SubsetRandomSampler):
        return len(set(sampler.indices))
    if isinstance(sampler, loading.SequentialSampler | Sequence):
        seen = list(sampler)[: len(loader) * batches.batch_size]  # with drop_last the rest is never drawn
        return len(set(seen))
    return None
