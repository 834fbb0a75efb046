"""Verdicts: an interval over seeds lies in the region that a claim names, outside of it, or across its border."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from .contrasts import Contrast

SUPPORTED, CONTRADICTED, INCONCLUSIVE, NO_DATA = "supported", "contradicted", "inconclusive", "no data"
ALPHA = 0.05
"""Level of each one-sided test; the intervals are at 1 - 2 ALPHA = 90%."""


@dataclass(frozen=True)
class Part:
    """A contrast, and the open region (low, high) in which a claim says that its mean over seeds lies."""

    contrast: Contrast
    low: float
    high: float


def above(contrast: Contrast, than: float = 0.0) -> Part:
    """Return the part that says: the mean is above that."""
    return Part(contrast, than, math.inf)


def under(contrast: Contrast, than: float = 0.0) -> Part:
    """Return the part that says: the mean is below that."""
    return Part(contrast, -math.inf, than)


def matching(contrast: Contrast, margin: float) -> Part:
    """Return the part that says: the mean is within the margin of 0 (two one-sided tests)."""
    return Part(contrast, -margin, margin)


def between(contrast: Contrast, low: float, high: float) -> Part:
    """Return the part that says: the mean is between the two."""
    return Part(contrast, low, high)


@dataclass(frozen=True)
class Outcome:
    """A part with its mean, its 90% interval, n seeds and p values: NaN below two seeds."""

    part: Part
    mean: float
    low: float
    high: float
    n: int
    p_inside: float
    """The p value of the test against "not inside the region": small supports."""
    p_outside: float
    """The p value of the test against "inside the region": small contradicts."""

    @property
    def verdict(self) -> str:
        if self.n < 2:
            return INCONCLUSIVE
        if self.part.low < self.low and self.high < self.part.high:
            return SUPPORTED
        return CONTRADICTED if self.high < self.part.low or self.low > self.part.high else INCONCLUSIVE


def outcome(part: Part) -> Outcome:
    """Test a part by Student's t over seeds (statsmodels' DescrStatsW), one-sided at each border of the region."""
    from statsmodels.stats.weightstats import DescrStatsW

    values = part.contrast.values.to_numpy(dtype=float)
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Outcome(part, mean, math.nan, math.nan, n, math.nan, math.nan)
    found = DescrStatsW(values)

    def one_sided(border: float) -> tuple[float, float]:
        """Return p values of the tests that the mean is above the border, and below it."""
        if not varied:
            return float(mean <= border), float(mean >= border)
        return float(found.ttest_mean(border, "larger")[1]), float(found.ttest_mean(border, "smaller")[1])

    varied = values.min() < values.max()  # counted FLOPs do not vary: then the mean is sure, and t is undefined
    low, high = found.tconfint_mean(alpha=2 * ALPHA) if varied else (values[0], values[0])
    (over_low, under_low), (over_high, under_high) = one_sided(part.low), one_sided(part.high)
    return Outcome(part, mean, float(low), float(high), n, max(over_low, under_high), min(under_low, over_high))


@dataclass(frozen=True)
class Joint:
    """Outcomes of all parts of a claim."""

    outcomes: list[Outcome]

    @property
    def verdict(self) -> str:
        """The joint verdict: supported if all parts are (intersection-union), contradicted if any part is."""
        found = {each.verdict for each in self.outcomes}
        if CONTRADICTED in found:
            return CONTRADICTED
        return SUPPORTED if found == {SUPPORTED} else INCONCLUSIVE

    @property
    def tested(self) -> list[Outcome]:
        """The outcomes of two seeds or more."""
        return [each for each in self.outcomes if each.n >= 2]

    @property
    def p_inside(self) -> float:
        """The largest p value: an intersection-union test needs no correction. NaN if a part has no test."""
        return max(each.p_inside for each in self.outcomes) if len(self.tested) == len(self.outcomes) else math.nan

    @property
    def p_outside(self) -> float:
        """The smallest p value times their number (Bonferroni), since any part contradicts; NaN without a test."""
        if not self.tested:
            return math.nan
        return min(1.0, len(self.tested) * min(each.p_outside for each in self.tested))

    @property
    def deciding(self) -> Outcome:
        """The part to show: the one that contradicts most, or one without a test, or the one supported least."""
        if self.verdict == CONTRADICTED:
            return min(self.tested, key=lambda each: each.p_outside)
        if len(self.tested) < len(self.outcomes):
            return min(self.outcomes, key=lambda each: each.n)
        return max(self.outcomes, key=lambda each: each.p_inside)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return adjusted p values, Holm 1979: the i-th smallest of n times n - i (from 0), at most 1, and never falling.

    NaN is no test, and stays. Written out, since statsmodels' multipletests collects garbage at each call, in 0.1 s.
    """
    import numpy as np

    p = np.asarray(p_values, dtype=float)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    adjusted = np.full_like(p, math.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted.tolist()


@dataclass(frozen=True)
class Claim:
    """A sentence about nets, and the function that turns it into contrasts of the records."""

    id: str
    sentence: str
    function: Callable[..., list[Part]]
    """Function of (net, *case) -> parts, all of which must hold; raises `Missing` for data that the records lack."""
    _: KW_ONLY
    study: str
    """The study with the data that it needs."""
    nets: tuple[str, ...] = ()
    """Beginnings of the names of its models; all models if empty."""
    metric: str = "accuracy"
    """The column that it is about."""
    cases: Mapping[str, tuple[Any, ...]] = field(default_factory=lambda: {"": ()})
    """Name -> further arguments of the function, each judged in a row of its own."""
    varied: tuple[str, ...] = ()
    """Settings, as train.lr, that may differ within one net: the claim compares them, or they don't matter to it."""

    def about(self, model: str) -> bool:
        """Return True if the claim is about that model."""
        return not self.nets or model.startswith(self.nets)
