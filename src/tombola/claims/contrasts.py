"""Contrasts: one number a seed, from one or two curves at levels that are named beforehand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise

from tombola.metrics.column import left, listed

from .curves import Grid, Missing

NEAR = 1.2
"""A level is near a density if neither is more than this many times the other."""
AROUND = 1.5
"""Two levels are around a density if it lies between them, and neither is further than this factor."""
POINTS, TIMES, RANK = "points", "times", "rank correlation"
"""Units: hundredths of a fraction; logs of a ratio, shown as the ratio; -1 to 1."""


@dataclass(frozen=True)
class Contrast:
    """A quantity that a claim measures: `values` by seed in `unit`, its place and curves in `words`, the rows' `keys`."""

    words: str
    values: Mapping[int, float]
    unit: str
    keys: tuple[str, ...]
    _: KW_ONLY
    counted: bool = False
    """True for numbers that are counted, such as FLOPs: seeds do not vary them, and no test is needed."""
    at_chance: tuple[str, ...] = ()
    """The curves that are no more accurate than chance at all the levels."""
    pull: int = 0
    """-1 where only the first of two accuracies collapsed to chance by pruning, 1 where only the second did, otherwise 0."""


def near(a: Grid, b: Grid, *, density: float) -> Contrast:
    """Return a - b at the shared level nearest to the density; else interpolated between two pruned levels around it.

    The interpolation is linear in log density, and its words say so. Raises Missing if no level is near and none around.
    """
    try:
        return at_level(a, b, level_near(a, b, density))
    except Missing:
        x = {level: math.log(a.density[level] / density) for level in _levels(a, b) if level}  # pruned levels alone
        for over, under in pairwise(x):
            if math.log(AROUND) >= x[over] > 0 > x[under] >= -math.log(AROUND):
                return _interpolated(a, b, [over, under], x[over] / (x[over] - x[under]), density)
        raise


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
    return _difference(words, a, b, levels, lambda values: math.fsum(values) / len(values))


def area(a: Grid, b: Grid, *, start: int = 0) -> Contrast:
    """Return a - b, each its area under the curve over log density, divided by the range: a mean over log density.

    It covers the levels that both have from `start` on; a seed that lacks one is left out. Raises Missing below two levels.
    """
    levels = [level for level in _levels(a, b) if level >= start]
    if len(levels) < 2:
        raise Missing(f"two or more levels of {_both(a, b)}")
    x = [math.log(a.density[level]) for level in levels]
    if x[0] == x[-1]:
        raise Missing(f"levels of different densities of {_both(a, b)}")
    reach = f"{left(a.density[levels[0]])} to {left(a.density[levels[-1]])} left"
    words = f"{a.words} minus {b.words}, area over log density, {reach}"
    return _difference(words, a, b, levels, lambda values: _trapezoid(values, x) / (x[-1] - x[0]))


def log_ratio(
    a: Sequence[tuple[Grid, Sequence[int]]], b: Sequence[tuple[Grid, Sequence[int]]], words: str, *, counted: bool = False
) -> Contrast:
    """Return the log of a ratio of sums, of the values at these levels of grids. Raises Missing without seeds."""
    values, parts = {}, [(grid, list(levels)) for grid, levels in (*a, *b)]
    for seed in parts[0][0].seeds():
        over, under = (sum(sum(grid.of_seed(seed, levels)) for grid, levels in side) for side in (a, b))
        if over > 0 and under > 0:  # false for NaN
            values[seed] = math.log(over / under)
    return _checked(Contrast(words, values, TIMES, _keys(parts, values), counted=counted))


def depth_correlation(densities: Grid, *, density: float) -> Contrast:
    """Return the Spearman correlation of a layer's place in the network with its density, at the level near `density`.

    `densities` is the grid of layer_density. Raises Missing below three layers; seeds with equally dense layers are out.
    """
    level = level_near(densities, densities, density)
    of_layers = {seed: list(json.loads(text).values()) for (seed, at), text in densities.values.items() if at == level}
    values = {seed: _spearman(own) for seed, own in of_layers.items() if len(own) > 2 and len(set(own)) > 1}
    words = f"depth and density of layers, {densities.words} at {left(densities.density[level])} left"
    if not values:
        raise Missing(f"three or more prunable layers of {densities.words}")
    return Contrast(words, values, RANK, _keys([(densities, [level])], values))


def minus(a: Contrast, b: Contrast) -> Contrast:
    """Return a - b of two contrasts in one unit, paired by seed."""
    values = {seed: value - b.values[seed] for seed, value in a.values.items() if seed in b.values}
    return _checked(Contrast(f"({a.words}) minus ({b.words})", values, a.unit, (*a.keys, *b.keys)))


def at_level(a: Grid, b: Grid, level: int) -> Contrast:
    """Return a - b at that level."""
    words = f"{a.words} minus {b.words} at {left(a.density[level])} left"
    return _difference(words, a, b, [level], lambda values: values[0])


def level_near(a: Grid, b: Grid, density: float) -> int:
    """Return the level that both have whose density is nearest in ratio. Raises Missing if it is not near."""
    levels = _levels(a, b)
    best = min(levels, key=lambda level: abs(math.log(a.density[level] / density)), default=None)
    if best is None or abs(math.log(a.density[best] / density)) > math.log(NEAR):
        raise Missing(f"a level near {left(density)} left (within a factor of {NEAR}) of {_both(a, b)}")
    return best


def first_level(a: Grid, b: Grid, density: float) -> int:
    """Return the first level that both have with at most that density left, or near it. Raises Missing without one."""
    found = next((level for level in _levels(a, b) if a.density[level] <= NEAR * density), None)
    if found is None:
        raise Missing(f"levels with {left(density)} left or less of {_both(a, b)}")
    return found


def _interpolated(a: Grid, b: Grid, levels: list[int], share: float, density: float) -> Contrast:
    """Return a - b at a density between two levels; `share` is its place between them, 0 at the first, in log density."""
    between = listed([left(a.density[level]) for level in levels])
    words = f"{a.words} minus {b.words} at {left(density)} left, interpolated between {between}"
    return _difference(words, a, b, levels, lambda values: (1 - share) * values[0] + share * values[1])


def _levels(a: Grid, b: Grid) -> list[int]:
    """Return the levels that both have, at densities near one another: a budget may leave unlike shares at one level."""
    return [at for at in a.levels if at in b.density and 1 / NEAR <= a.density[at] / b.density[at] <= NEAR]


def _both(a: Grid, b: Grid) -> str:
    return a.words if b.words in ("dense", a.words) else f"{a.words} and {b.words}"


def _difference(words: str, a: Grid, b: Grid, levels: list[int], value: Callable[[list[float]], float]) -> Contrast:
    values = {seed: 100 * (value(a.of_seed(seed, levels)) - value(b.of_seed(seed, levels))) for seed in a.seeds()}
    values = {seed: each for seed, each in values.items() if not math.isnan(each)}  # a seed that one of the two lacks
    at_chance = tuple(grid.words for grid in (a, b) if grid.chance.issuperset(levels))
    pull = 0 if len(at_chance) > 1 else int(b.collapsed(levels)) - int(a.collapsed(levels))
    keys = _keys([(a, levels), (b, levels)], values)
    return _checked(Contrast(words, values, POINTS, keys, at_chance=at_chance, pull=pull))


def _checked(contrast: Contrast) -> Contrast:
    if not contrast.values:
        raise Missing(f"a seed that has all of: {contrast.words}")
    return contrast


def _keys(grids: Sequence[tuple[Grid, list[int]]], seeds: Mapping[int, float]) -> tuple[str, ...]:
    found = (grid.keys[seed, level] for grid, levels in grids for seed in seeds for level in levels)
    return tuple(dict.fromkeys(found))


def _trapezoid(values: Sequence[float], x: Sequence[float]) -> float:
    points = pairwise(zip(x, values, strict=True))
    return math.fsum((right - left_) * (one + other) / 2 for (left_, one), (right, other) in points)


def _spearman(densities: list[float]) -> float:
    """Return the rank correlation of place and density, equal densities at their mean rank."""
    import numpy as np
    import pandas as pd

    ranks = pd.Series(densities).rank()
    return float(np.corrcoef(range(len(densities)), ranks)[0, 1])
