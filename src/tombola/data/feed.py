"""Batches as functions of device tensors, so that a captured training step can contain the making of its batch.

Legend: N examples, B examples of a batch, T batches of an epoch.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from tombola.posterior.batch import Batch, moved

from .augment import Cut
from .batches import Batches, TensorBatches
from .normalise import Normalise


class Feed(Protocol):
    """Source of a captured step's batches; what changes from step to step lies in tensors that stay where they are."""

    def steps(self, epoch: int, skip: int) -> Iterator[Any]:
        """Make ready the next batch of that epoch, from the `skip`-th on; yield its kind: each is captured apart."""
        ...

    def batch(self, at: Tensor, kind: Any) -> Batch:
        """Return the batch that is ready. at: its number in the epoch, int64 [1]; kind: what `steps` gave, when captured."""
        ...


def feed_of(batches: Batches, device: torch.device) -> Feed:
    """Return the feed of a training's batches."""
    if isinstance(batches, TensorBatches) and can_be_gathered(batches, device):
        return Gathered(batches)
    return Copied(batches, device)


def can_be_gathered(batches: TensorBatches, device: torch.device) -> bool:
    """Return whether the data lies on the device and everything done to it is ours, which waits for nothing."""
    if type(batches) is not TensorBatches or batches.inputs.device != device:
        return False
    _, draw = batches.drawn(0)
    return isinstance(draw, Cut | None) and isinstance(batches.prepare, Normalise | None)


class Gathered:
    """Batches gathered, augmented and normalised within the step: nothing is launched or copied for one of them."""

    def __init__(self, batches: TensorBatches):
        self._batches = batches
        self._last = batches.examples - (batches.steps - 1) * batches.batch_size
        width = max(batches.batch_size, self._last) if batches.steps > 1 else self._last
        device = batches.device
        self._rows_TB = torch.zeros(batches.steps, width, dtype=torch.int64, device=device)
        self._draw: Cut | None = None

    def steps(self, epoch: int, skip: int) -> Iterator[int]:
        """Yield the number of examples of each batch."""
        order, draw = self._batches.drawn(epoch)
        size, (count, width) = self._batches.batch_size, self._rows_TB.shape
        rows = torch.zeros(count, width, dtype=torch.int64)
        for t in range(count):
            chosen = order[t * size :] if t == count - 1 else order[t * size : (t + 1) * size]
            rows[t, : len(chosen)] = chosen
        self._rows_TB.copy_(rows)
        assert isinstance(draw, Cut | None)
        if self._draw is None:
            self._draw = draw
        elif draw is not None:
            self._draw.load(draw)
        for t in range(skip, count):
            yield self._last if t == count - 1 else size

    def batch(self, at: Tensor, kind: int) -> Batch:
        source, rows = self._batches, self._rows_TB.index_select(0, at)[0, :kind]
        inputs, targets = source.inputs.index_select(0, rows), source.targets.index_select(0, rows)
        inputs = inputs if self._draw is None else self._draw(inputs, rows)
        return (inputs if source.prepare is None else source.prepare(inputs)), targets


class Copied:
    """Batches of any kind, each copied into the tensors of the first one of its kind."""

    def __init__(self, batches: Batches, device: torch.device):
        self._batches, self._device = batches, device
        self._own: dict[str, Batch] = {}

    def steps(self, epoch: int, skip: int) -> Iterator[str]:
        """Yield shapes, strides, dtypes and other values of each batch, as text."""
        for batch in islice(self._batches.epoch(epoch, skip), self._batches.steps - skip):
            batch = moved(batch, self._device)  # mappings and sequences of a user's own type become dicts and tuples
            kind = kind_of(batch)
            if kind in self._own:
                copy_into(self._own[kind], batch)
            else:
                self._own[kind] = like(batch)
            yield kind

    def batch(self, at: Tensor, kind: str) -> Batch:
        return self._own[kind]


def kind_of(batch: Any) -> str:
    """Return the key of a capture: shapes, strides, dtypes and devices of a batch's tensors, other values themselves."""
    kinds = tree_map(lambda x: (x.shape, x.stride(), x.dtype, x.device) if isinstance(x, Tensor) else x, batch)
    return repr(kinds)


def like(batch: Any) -> Any:
    """Return a copy of a batch with tensors of its own, of the same strides."""
    return tree_map_only(Tensor, lambda t: t.clone(memory_format=torch.preserve_format), batch)


def copy_into(target: Any, batch: Any) -> None:
    """Write a batch's tensors into the tensors of another of its kind."""
    for own, value in zip(tree_leaves(target), tree_leaves(batch), strict=True):
        if isinstance(own, Tensor):
            own.copy_(value, non_blocking=True)
