"""Contrasts: one number a seed, from one or two curves at levels that are named beforehand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tombola.metrics.column import left

from .curves import Grid, Missing

if TYPE_CHECKING:
    import pandas as pd

NEAR = 1.5
"""A level is near a density if neither is more than this many times the other."""
POINTS, TIMES, RANK = "points", "times", "rank correlation"
"""Units: hundredths of a fraction; logs of a ratio, shown as the ratio; -1 to 1."""


@dataclass(frozen=True)
class Contrast:
    """A quantity that a claim measures: `values` by seed in `unit`, its place and curves in `words`, the rows' `keys`."""

    words: str
    values: pd.Series
    unit: str
    keys: tuple[str, ...]


def near(a: Grid, b: Grid, *, density: float) -> Contrast:
    """Return a - b at the shared level whose density is nearest (in ratio). Raises Missing if none is near."""
    return at_level(a, b, level_near(a, b, density))


def every(a: Grid, b: Grid, *, start: int = 1, stop: int | None = None) -> list[Contrast]:
    """Return a - b at each level that both have from `start` to `stop`, inclusive. Raises Missing if there is none."""
    levels = [level for level in _levels(a, b) if level >= start and (stop is None or level <= stop)]
    if not levels:
        raise Missing(f"levels that both {a.words} and {b.words} have")
    return [at_level(a, b, level) for level in levels]


def below(a: Grid, b: Grid, *, density: float) -> Contrast:
    """Return a - b, each a mean over the levels with less than that density left. Raises Missing if there is none."""
    levels = [level for level in _levels(a, b) if a.density[level] < density]
    if not levels:
        raise Missing(f"levels with less than {left(density)} left of {_both(a, b)}")
    where = ", ".join(left(a.density[level]) for level in levels)
    words = f"{a.words} minus {b.words}, mean below {left(density)} left (at {where})"
    return _difference(words, a, b, levels, lambda grid: grid.values[levels].mean(axis=1, skipna=False))


def area(a: Grid, b: Grid, *, start: int = 0) -> Contrast:
    """Return a - b, each its area under the curve over log density, divided by the range: a mean over log density.

    It covers the levels that both have from `start` on; a seed that lacks one is left out. Raises Missing below two levels.
    """
    levels = [level for level in _levels(a, b) if level >= start]
    if len(levels) < 2:
        raise Missing(f"two or more levels of {_both(a, b)}")
    x = [math.log(a.density[level]) for level in levels]
    reach = f"{left(a.density[levels[0]])} to {left(a.density[levels[-1]])} left"
    words = f"{a.words} minus {b.words}, area over log density, {reach}"
    return _difference(words, a, b, levels, lambda grid: _mean_over(x, grid.values[levels]))


def log_ratio(a: Sequence[tuple[Grid, Sequence[int]]], b: Sequence[tuple[Grid, Sequence[int]]], words: str) -> Contrast:
    """Return the log of a ratio of sums, of the values at these levels of grids. Raises Missing without seeds."""
    import pandas as pd

    sums = []
    for parts in (a, b):
        columns = [grid.values[level] for grid, levels in parts for level in levels]
        sums.append(pd.concat(columns, axis=1).sum(axis=1, skipna=False))
    values = (sums[0] / sums[1]).dropna().map(math.log)
    grids = [(grid, list(levels)) for parts in (a, b) for grid, levels in parts]
    return _checked(Contrast(words, values, TIMES, _keys(grids, values.index)))


def depth_correlation(densities: Grid, *, density: float) -> Contrast:
    """Return the Spearman correlation of a layer's place in the network with its density, at the level nearest `density`.

    `densities` is the grid of layer_density. Raises Missing below three layers; seeds with equally dense layers are out.
    """
    level = level_near(densities, densities, density)
    found = densities.values[level].dropna().map(lambda text: _spearman(list(json.loads(text).values()))).dropna()
    words = f"depth and density of layers, {densities.words} at {left(densities.density[level])} left"
    if found.empty:
        raise Missing(f"three or more prunable layers of {densities.words}")
    return Contrast(words, found.astype(float), RANK, _keys([(densities, [level])], found.index))


def minus(a: Contrast, b: Contrast) -> Contrast:
    """Return a - b of two contrasts in one unit, paired by seed."""
    return _checked(Contrast(f"({a.words}) minus ({b.words})", (a.values - b.values).dropna(), a.unit, (*a.keys, *b.keys)))


def at_level(a: Grid, b: Grid, level: int) -> Contrast:
    """Return a - b at that level."""
    words = f"{a.words} minus {b.words} at {left(a.density[level])} left"
    return _difference(words, a, b, [level], lambda grid: grid.values[level])


def level_near(a: Grid, b: Grid, density: float) -> int:
    """Return the level that both have whose density is nearest in ratio. Raises Missing if it is not near."""
    levels = _levels(a, b)
    best = min(levels, key=lambda level: abs(math.log(a.density[level] / density)), default=None)
    if best is None or abs(math.log(a.density[best] / density)) > math.log(NEAR):
        raise Missing(f"a level near {left(density)} left (within a factor of {NEAR}) of {_both(a, b)}")
    return best


def _levels(a: Grid, b: Grid) -> list[int]:
    return sorted(set(a.levels) & set(b.levels))


def _both(a: Grid, b: Grid) -> str:
    return a.words if b.words in ("dense", a.words) else f"{a.words} and {b.words}"


def _difference(words: str, a: Grid, b: Grid, levels: list[int], value: Callable[[Grid], pd.Series]) -> Contrast:
    values = 100 * (value(a) - value(b)).dropna()  # pandas pairs by seed, with NaN where one of the two lacks it
    return _checked(Contrast(words, values, POINTS, _keys([(a, levels), (b, levels)], values.index)))


def _checked(contrast: Contrast) -> Contrast:
    if contrast.values.empty:
        raise Missing(f"a seed that has all of: {contrast.words}")
    return contrast


def _keys(grids: Sequence[tuple[Grid, list[int]]], seeds: pd.Index) -> tuple[str, ...]:
    found = (key for grid, levels in grids for key in grid.keys.loc[seeds, levels].to_numpy().ravel())
    return tuple(dict.fromkeys(str(key) for key in found))


def _mean_over(x: list[float], values: pd.DataFrame) -> pd.Series:
    import pandas as pd
    from scipy.integrate import trapezoid

    return pd.Series(trapezoid(values.to_numpy(), x, axis=1) / (x[-1] - x[0]), index=values.index)


def _spearman(densities: list[float]) -> float:
    """Return the correlation of place and density; NaN below three layers, or where all are equal."""
    from scipy.stats import spearmanr

    if len(densities) < 3 or len(set(densities)) == 1:
        return math.nan
    return float(spearmanr(range(len(densities)), densities).statistic)
