"""What a loader yields, how a module is run on it, and where its output's logits are.

A batch is a pair (inputs, targets) or a mapping. Of a mapping the entry `labels` is the targets, and the others go to the
module by keyword, as with Hugging Face's models. (For targets of another name, or a module that must see its labels, give a
pair whose inputs are a mapping.) Inputs are what a module is called with: a tensor, a tuple or list of positional arguments,
or a mapping of keyword arguments.

Legend: B examples.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from tombola.errors import TombolaError

Batch = tuple[Any, Any] | Mapping[str, Any]
"""(inputs of the module, targets), or a mapping with `labels`."""

LABELS = "labels"
IGNORED = -100
"""A label of this value counts for nothing, as in `torch.nn.functional.cross_entropy`."""


def inputs_of(batch: Batch) -> Any:
    """What the module is run on."""
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if name != LABELS}
    return _pair(batch)[0]


def targets_of(batch: Batch) -> Any:
    """What the likelihood compares the output with. Raises TombolaError for a mapping without `labels`."""
    if not isinstance(batch, Mapping):
        return _pair(batch)[1]
    if LABELS not in batch:
        raise TombolaError(f"the batch has {', '.join(batch)} but no {LABELS!r}; add it, or give a pair (inputs, targets)")
    return batch[LABELS]


def run(module: Callable[..., Any], inputs: Any) -> Any:
    """The module's output for `inputs`: a tensor, a tuple of positional or a mapping of keyword arguments."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    if isinstance(inputs, tuple | list):
        return module(*inputs)
    return module(inputs)


def logits_of(output: Any) -> Tensor:
    """The tensor of an output: itself, its attribute or entry `logits`, or the first of a tuple.

    Raises TombolaError where there is none.
    """
    if isinstance(output, Mapping):
        found = output.get("logits")
    else:
        found = getattr(output, "logits", output[0] if isinstance(output, tuple | list) and output else output)
    if not isinstance(found, Tensor):
        raise TombolaError(
            f"the module's output is a {type(output).__name__} without a tensor `logits`; say what is meant by a "
            "likelihood of your own, or for predictions by `select`"
        )
    return found


def moved(value: Any, device: torch.device | str) -> Any:
    """A batch (or inputs) with every tensor on `device`; what cannot be moved stays."""
    if isinstance(value, Mapping):
        return {name: moved(part, device) for name, part in value.items()}
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, tuple | list):
        return tuple(moved(part, device) for part in value)
    return value


def channels_last(value: Any) -> Any:
    """A batch (or inputs) with every image batch [B, C, H, W] laid out channels-last in memory; the values are the same."""
    if isinstance(value, Mapping):
        return {name: channels_last(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return tuple(channels_last(part) for part in value)
    images = isinstance(value, Tensor) and value.ndim == 4
    return value.contiguous(memory_format=torch.channels_last) if images else value


def examples_of(batch: Batch) -> int:
    """B: the length of the targets, or where they have none of the first input that has one."""
    found = _first_tensor(batch.get(LABELS) if isinstance(batch, Mapping) else _pair(batch)[1])
    return len(found) if found is not None else length_of(inputs_of(batch))


def length_of(inputs: Any) -> int:
    """B of inputs: the length of their first tensor. Raises TombolaError if there is none."""
    found = _first_tensor(inputs)
    if found is None:
        raise TombolaError(f"inputs of {type(inputs).__name__} have no tensor: how many examples they are cannot be told")
    return len(found)


def lengths_of(inputs: Any) -> set[int]:
    """The lengths of all their tensors that have one."""
    if isinstance(inputs, Tensor):
        return {len(inputs)} if inputs.ndim else set()
    inner = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple | list) else ()
    return set().union(*map(lengths_of, inner))


def parts(value: Any, length: int, size: int) -> Iterator[Any]:
    """A batch (or inputs) of `length` examples in pieces of at most `size`; what has no such length is in every piece."""
    if length <= size:
        yield value
        return
    for start in range(0, length, size):
        yield _cut(value, length, slice(start, start + size))


def shares(value: Any, length: int, count: int) -> Iterator[tuple[Any, slice]]:
    """A batch of `length` examples in `count` pieces of about one size with their places; in fewer where a piece would have
    one example alone, which batch norm cannot normalise."""
    count = max(1, min(count, length // 2))
    if count == 1:
        yield value, slice(0, length)
        return
    for i in range(count):
        rows = slice(i * length // count, (i + 1) * length // count)
        yield _cut(value, length, rows), rows


def _cut(value: Any, length: int, rows: slice) -> Any:
    if isinstance(value, Mapping):
        return {name: _cut(part, length, rows) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_cut(part, length, rows) for part in value)
    return value[rows] if isinstance(value, Tensor) and value.ndim and len(value) == length else value


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value if value.ndim else None
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return next((found for part in inner if (found := _first_tensor(part)) is not None), None)


def _pair(batch: Any) -> Any:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        what = f"{len(batch)} parts" if isinstance(batch, tuple | list) else f"one {type(batch).__name__}"
        raise TombolaError(
            f"a batch is a pair (inputs, targets) or a mapping, this one has {what}; "
            "several inputs are a tuple: ((a, b), targets)"
        )
    return batch
