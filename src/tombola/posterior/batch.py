"""Batches: their inputs and targets, the run of a module on them, and the logits of its output.

A batch is a pair (inputs, targets) or a mapping. Of a mapping the entry `labels` is the targets, and the others go to the
module by keyword, as with Hugging Face's models. (For targets of another name, or a module that must see its labels, give a
pair whose inputs are a mapping.) Inputs are what a module is called with: a tensor or a `PackedSequence`, a tuple or list of
positional arguments, or a mapping of keyword arguments.

Legend: B examples.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from tombola.errors import TombolaError

from .modes import recordable
from .refused import check_unwritten, in_words, versions_of

Batch = tuple[Any, Any] | Mapping[str, Any]
"""(inputs of the module, targets), or a mapping with `labels`."""

LABELS = "labels"
IGNORED = -100
"""A label of this value counts for nothing, as in `torch.nn.functional.cross_entropy`."""


def inputs_of(batch: Batch) -> Any:
    """Return the inputs that the module is run on."""
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if name != LABELS}
    return _pair(batch)[0]


def targets_of(batch: Batch) -> Any:
    """Return the targets that the likelihood compares the output with.

    Raises TombolaError for a mapping without `labels`.
    """
    if not isinstance(batch, Mapping):
        return _pair(batch)[1]
    if LABELS not in batch:
        raise TombolaError(f"the batch has {', '.join(batch)} but no {LABELS!r}; add it, or give a pair (inputs, targets)")
    return batch[LABELS]


def run(module: Callable[..., Any], inputs: Any) -> Any:
    """Return the module's output for `inputs`: one input, a tuple of positional or a mapping of keyword arguments.

    A named tuple is one argument of a module that takes one. Raises TombolaError for inputs that it writes to, and for
    what `refused.in_words` knows: a dtype, or a number or names of inputs, that the module does not take, and the like.
    """
    before = versions_of(leaves(inputs))
    try:
        if isinstance(inputs, Mapping):
            output = module(**inputs)
        else:
            output = module(*inputs) if _is_sequence(inputs) and not _is_one(module, inputs) else module(inputs)
    except (RuntimeError, ValueError, TypeError) as error:  # torch has a sentence of its own in each layer
        said = in_words(error, module, inputs, [leaf.dtype for leaf in leaves(inputs) if isinstance(leaf, Tensor)])
        if said is None:
            raise
        raise TombolaError(said) from error
    check_unwritten(module, before)
    return output


def _is_one(module: Callable[..., Any], inputs: Any) -> bool:
    """Return whether a named tuple is the one argument of the module, and not several."""
    if not hasattr(inputs, "_fields") or len(inputs) == 1:
        return False
    taken = inspect.signature(module.forward if isinstance(module, torch.nn.Module) else module).parameters.values()
    return len(taken) == 1 and next(iter(taken)).kind is not inspect.Parameter.VAR_POSITIONAL


def logits_of(output: Any) -> Tensor:
    """Return the tensor of an output: itself, its attribute or entry `logits`, or the first of a tuple.

    Raises TombolaError where none of them is a tensor.
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


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a batch (or inputs) with every leaf changed; lists become tuples, mappings dictionaries."""
    if isinstance(value, Mapping):
        return {name: mapped(part, change) for name, part in value.items()}
    if _is_sequence(value):
        parts = [mapped(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return change(value)


def leaves(value: Any) -> Iterator[Any]:
    """Yield the leaves of a batch (or inputs), of mappings and sequences within one another."""
    if isinstance(value, Mapping) or _is_sequence(value):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from leaves(part)
    else:
        yield value


def moved(value: Any, device: torch.device | str) -> Any:
    """Return a batch (or inputs) on `device`; a leaf that cannot be moved stays."""
    return mapped(value, lambda leaf: recordable(leaf.to(device)) if hasattr(leaf, "to") else leaf)


def channels_last(value: Any) -> Any:
    """Return a batch (or inputs) with every image batch [B, C, H, W] laid out channels-last; the values are the same."""

    def laid_out(leaf: Any) -> Any:
        images = isinstance(leaf, Tensor) and leaf.ndim == 4
        return leaf.contiguous(memory_format=torch.channels_last) if images else leaf

    return mapped(value, laid_out)


def examples_of(batch: Batch) -> int:
    """Return B: the length of the targets, or where they have none of the first input that has one."""
    targets = batch.get(LABELS) if isinstance(batch, Mapping) else _pair(batch)[1]
    found = next(_lengths(targets), None)
    return length_of(inputs_of(batch)) if found is None else found


def length_of(inputs: Any) -> int:
    """Return B of inputs: the length of the first of them that has one. Raises TombolaError if none has."""
    found = next(_lengths(inputs), None)
    if found is None:
        raise TombolaError(f"inputs of {type(inputs).__name__} have no tensor: how many examples they are cannot be told")
    return found


def lengths_of(inputs: Any) -> set[int]:
    """Return the lengths of all inputs that have one."""
    return set(_lengths(inputs))


def parts(value: Any, length: int, size: int) -> Iterator[Any]:
    """Yield a batch (or inputs) of `length` examples in pieces of at most `size`; a leaf of another length is in each.

    Raises TombolaError for a leaf of which it cannot be told whether its rows are examples.
    """
    if length <= size:
        yield value
        return
    check_unconnected(value, length)
    for start in range(0, length, size):
        yield _cut(value, length, slice(start, start + size))


def in_parts(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield a batch in pieces of at most `size`, as `parts`, or whole where it cannot be cut."""
    try:
        yield from parts(batch, examples_of(batch), size)
    except TombolaError:
        yield batch


def shares(value: Any, length: int, count: int) -> Iterator[tuple[Any, slice]]:
    """Yield a batch of `length` examples in `count` pieces of about one size, and their places.

    In fewer where a piece would have one example alone, which batch norm cannot normalise. Raises TombolaError as `parts`.
    """
    count = max(1, min(count, length // 2))
    if count == 1:
        yield value, slice(0, length)
        return
    check_unconnected(inputs_of(value), length)
    for i in range(count):
        rows = slice(i * length // count, (i + 1) * length // count)
        yield _cut(value, length, rows), rows


def check_unconnected(value: Any, length: int) -> None:
    """Raise TombolaError for what may say how examples are connected: a square matrix beside them, or a list of edges."""
    tensors = [leaf for leaf in leaves(value) if isinstance(leaf, Tensor) and leaf.ndim > 1]
    found = [leaf for leaf in tensors if len(leaf) == length]
    square = [leaf.ndim == 2 and leaf.shape[1] == length for leaf in found]
    shape: tuple[int, ...] | None = (length, length) if any(square) and not all(square) else None
    for leaf in tensors:
        if leaf.ndim == 2 and len(leaf) == 2 != length and leaf.dtype in (torch.int64, torch.int32):
            shape = tuple(leaf.shape)
    if shape is not None:
        what = "a matrix" if shape[0] == length else "whole numbers"
        raise TombolaError(
            f"inputs of {length} examples cannot be cut into parts: one of them is {what} of shape {list(shape)}, "
            "which may say how examples are connected; give them whole, by a `batch` as large for a prediction and an "
            "`accumulate` of 1 in training"
        )


def _cut(value: Any, length: int, rows: slice) -> Any:
    def cut(leaf: Any) -> Any:
        if _length(leaf) != length:
            return leaf
        return _cut_packed(leaf, rows) if isinstance(leaf, PackedSequence) else leaf[rows]

    return mapped(value, cut)


def _cut_packed(sequences: PackedSequence, rows: slice) -> PackedSequence:
    padded, lengths = pad_packed_sequence(sequences, batch_first=True)
    in_order = sequences.sorted_indices is None
    return pack_padded_sequence(padded[rows], lengths[rows], batch_first=True, enforce_sorted=in_order)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, tuple | list) and not isinstance(
        value, PackedSequence
    )  # a tuple by class, one input by meaning


def _length(leaf: Any) -> int | None:
    if isinstance(leaf, PackedSequence):
        return int(leaf.batch_sizes[0])
    return len(leaf) if isinstance(leaf, Tensor) and leaf.ndim else None


def _lengths(value: Any) -> Iterator[int]:
    return (found for leaf in leaves(value) if (found := _length(leaf)) is not None)


def _pair(batch: Any) -> Any:
    if not _is_sequence(batch) or len(batch) != 2:
        what = f"{len(batch)} parts" if _is_sequence(batch) else f"one {type(batch).__name__}"
        raise TombolaError(
            f"a batch is a pair (inputs, targets) or a mapping, this one has {what}; "
            "several inputs are a tuple: ((a, b), targets)"
        )
    return batch
