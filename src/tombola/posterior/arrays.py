"""Data as callers bring them: arrays in place of tensors, and loaders in place of batches."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tombola.errors import TombolaError

from .batch import Batch, check_unconnected, examples_of


def as_tensors(value: Any) -> Any:
    """Return a batch, inputs or targets with tensors for numpy arrays of numbers, their floats in torch's default dtype.

    Arrays of text and objects stay as they are. Raises TombolaError for others that torch cannot hold, as dates, and for
    masked values, which are missing ones.
    """
    if isinstance(value, Mapping):
        return {name: as_tensors(part) for name, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(as_tensors(part) for part in value)
    if masked := _masked(value):
        raise TombolaError(
            f"an array of shape {list(value.shape)} has {masked} masked values; fill them, as by "
            "array.filled(0), or leave the examples out"
        )
    if isinstance(value, Tensor) or not hasattr(value, "__array__") or (array := value.__array__()).dtype.kind in "OSU":
        return value
    if not (is_real(array.dtype) or array.dtype.kind == "c") or (array.dtype == "uint64" and (array >= 2**63).any()):
        raise TombolaError(
            f"an array has the dtype {array.dtype}, whose values torch cannot hold; give numbers it can, as by "
            "array.astype('float32')"
        )
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # torch has little arithmetic of these
        array = array.astype("int64")
    if array.dtype.kind in "fc" and array.dtype.itemsize > (8 if array.dtype.kind == "f" else 16):  # of extended precision
        array = array.astype("float64" if array.dtype.kind == "f" else "complex128")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(step < 0 for step in array.strides):  # torch cannot share such memory
        array = array.copy()
    found = torch.as_tensor(array)
    default = torch.get_default_dtype()
    return found.to(default.to_complex() if found.is_complex() else default) if array.dtype.kind in "fc" else found


def _masked(value: Any) -> int:
    """Return the number of masked values of numpy's masked arrays; 0 for all else."""
    return int(value.mask.sum()) if type(value).__name__ == "MaskedArray" else 0


def is_real(dtype: Any) -> bool:
    """Return whether a numpy dtype is of real numbers or truth values: not of text, dates, records or objects."""
    return dtype.kind in "biuf"


def validation_batches(examples: Any) -> list[Batch]:
    """Return the batches, of tensors, of held-out examples: None, a batch, a list of batches, a TensorDataset, a DataLoader.

    A loader's are put together where their examples allow it: not padded to different lengths, nor connected. Raises
    TombolaError for an empty loader, and for a data set of single examples.
    """
    if examples is None:
        return []
    if isinstance(examples, TensorDataset):
        return [as_tensors(examples.tensors)]
    if isinstance(examples, Dataset):
        raise TombolaError(
            f"validation is a {type(examples).__name__}, which gives single examples; give a torch DataLoader of it"
        )
    several = isinstance(examples, list) and all(isinstance(part, Mapping | tuple | list) for part in examples)
    batches = [as_tensors(batch) for batch in (examples if several or isinstance(examples, DataLoader) else [examples])]
    if not batches:
        raise TombolaError("the loader of the validation examples is empty; give at least one batch")
    if not all(map(examples_of, batches)):
        raise TombolaError("there are no validation examples, or none in one batch of them; give some, or no validation")
    return [_joined(batches)] if len(batches) > 1 and all(_is_alike(batch, batches[0]) for batch in batches) else batches


def _joined(batches: list[Batch]) -> Batch:
    trees = [tree_flatten(batch) for batch in batches]
    columns = zip(*(found for found, _ in trees), strict=True)
    return tree_unflatten([torch.cat(column) for column in columns], trees[0][1])


def _is_alike(batch: Batch, other: Batch) -> bool:
    """Return whether rows of all tensors of two batches are examples, of one shape and nothing else."""
    (own, tree), (others, form), length = tree_flatten(batch), tree_flatten(other), examples_of(batch)
    if tree != form or not all(isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == length for leaf in own):
        return False
    try:
        check_unconnected(batch, length)
    except TombolaError:
        return False
    return all(a.shape[1:] == b.shape[1:] and a.layout == b.layout for a, b in zip(own, others, strict=True))
