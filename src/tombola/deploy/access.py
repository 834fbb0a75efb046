"""Memory by address in numba, and the options of all kernels."""

from typing import Any

import numpy as np
from numba import carray, njit  # type: ignore[attr-defined]

from .vectors import floats_at, longs_at

OPTIONS: dict[str, Any] = {"fastmath": True, "boundscheck": False, "cache": True, "nogil": True, "error_model": "numpy"}
ZERO = np.float32(0)


@njit(**OPTIONS)
def floats(address, start, count):  # type: ignore[no-untyped-def]
    """Return the array of `count` float32 that begins `start` floats after an address."""
    return carray(floats_at(address + 4 * start), (count,))


@njit(**OPTIONS)
def longs(address, count):  # type: ignore[no-untyped-def]
    """Return the array of `count` int64 at an address."""
    return carray(longs_at(address), (count,))
