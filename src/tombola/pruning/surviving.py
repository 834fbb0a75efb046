"""Tensors of a file that are stored for surviving weights alone.

Legend: P parameters of the layout.
"""

from torch import Tensor


def parameters_along(value: Tensor, kept: Tensor, pruned: Tensor) -> int | None:
    """Return the first, or else the last, dimension of `value` that is P long and 0 at the indices `pruned`."""
    for dim in (0, value.ndim - 1) if value.ndim else ():
        if value.shape[dim] == len(kept) + len(pruned) and not bool(value.index_select(dim, pruned).any()):
            return dim
    return None


def spread(value: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Return `value`, of the surviving weights along `dim`, with zeros for the others."""
    whole = value.new_zeros([*value.shape[:dim], mask.numel(), *value.shape[dim + 1 :]])
    return whole.index_copy_(dim, indices(mask), value)


def indices(mask: Tensor) -> Tensor:
    """Return the places where `mask` is true."""
    return mask.nonzero().squeeze(1)
