"""Barriers on the straight line from one network to another."""

from collections.abc import Sequence


def barrier(alphas: Sequence[float], values: Sequence[float]) -> float:
    """Return the largest rise of a loss or error above the straight line between its ends, in its unit.

    The maximum over alpha of L(alpha) - ((1 - alpha) L(0) + alpha L(1)), never below 0: Entezari et al. 2022, eq. 1.
    alphas: rising from 0 to 1. values: L at each. Raises ValueError for other ends or another number of values.
    """
    if len(alphas) != len(values):
        raise ValueError(f"there are {len(alphas)} alphas for {len(values)} values")
    if len(alphas) < 2 or alphas[0] != 0 or alphas[-1] != 1:
        raise ValueError(f"alphas are {list(alphas)}; they must go from 0 to 1")
    first, last = values[0], values[-1]
    return max(0.0, *(v - ((1 - a) * first + a * last) for a, v in zip(alphas, values, strict=True)))
