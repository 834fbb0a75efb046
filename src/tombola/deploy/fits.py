"""Polynomials, fitted once, of functions that vanish for large arguments."""

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.polynomial import Chebyshev, Polynomial

from .access import INNER

END = 5.0
"""Largest argument; beyond it the functions are below 1e-6."""
_DEGREE = 12


def fitted(function: Callable[[float], float]) -> tuple[np.float32, ...]:
    """Return the 13 coefficients, in u = 2 t / END - 1, of a function of t from 0 to END."""
    t = np.linspace(0, END, 4001)
    chebyshev = Chebyshev.fit(2 * t / END - 1, [function(each) for each in t], _DEGREE, domain=[-1, 1])
    return tuple(np.float32(each) for each in chebyshev.convert(kind=Polynomial).coef)


@njit(inline="always", **INNER)
def polynomial(u, c):  # type: ignore[no-untyped-def]
    """Return the value at u of the polynomial with coefficients c."""
    low = c[0] + u * (c[1] + u * (c[2] + u * (c[3] + u * (c[4] + u * (c[5] + u * c[6])))))
    high = c[7] + u * (c[8] + u * (c[9] + u * (c[10] + u * (c[11] + u * c[12]))))
    square = u * u
    return low + square * square * square * u * high
