"""Inputs from numpy's files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tombola.data.signature import Signature, check_finite
from tombola.errors import TombolaError, is_out_of_memory
from tombola.posterior.arrays import as_tensors, is_real

from .sources import Piece, Source

_NAMES = ("inputs", "x", "X", "images")


def array(path: Path, signature: Signature) -> Source:
    """Return the inputs in a .npy file, mapped into memory, or in a .npz file, whose array is read whole.

    The array has examples first, or is one example. Raises TombolaError for a damaged file, for objects (nothing is
    unpickled), for a .npz file of several arrays none of which is `inputs`, `x`, `X` or `images`, and for another shape.
    """
    values = _loaded(path)
    if not is_real(values.dtype):
        raise TombolaError(f"{path} holds {values.dtype}; give an array of numbers, as by array.astype('float32')")
    if tuple(values.shape) == signature.shape:
        values = values[None]
    if tuple(values.shape[1:]) != signature.shape:
        wanted = ", ".join(map(str, signature.shape))
        raise TombolaError(f"{path} has the shape {list(values.shape)}; the ticket takes [B, {wanted}]")
    if not len(values):
        raise TombolaError(f"{path} has no examples; give at least one")

    def pieces(size: int) -> Iterator[Piece]:
        for start in range(0, len(values), size):
            part = values[start : start + size]
            inputs = as_tensors(part.copy())
            check_finite(inputs, start)
            yield Piece([str(i) for i in range(start, start + len(part))], inputs)

    return Source(len(values), pieces)


def _loaded(path: Path) -> Any:
    import numpy as np

    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if path.suffix.lower() == ".npy":
            return found
        with found:
            names = found.files
            name = names[0] if len(names) == 1 else next((name for name in _NAMES if name in names), None)
            if name is not None:
                return found[name]
    except Exception as error:  # zipfile and zlib have errors of their own
        if is_out_of_memory(error):
            raise
        if isinstance(error, OSError | ValueError | EOFError):
            raise TombolaError(f"{path} is no array that can be read ({str(error).splitlines()[0]}); save it anew") from None
        raise TombolaError(f"{path} is damaged ({error}); save it anew") from None
    raise TombolaError(f"{path} has the arrays {', '.join(names)}; name the one to predict `inputs`")
