"""Verdicts: an interval over seeds lies in the region that a claim names, outside of it, or across its border."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from .contrasts import Contrast

if TYPE_CHECKING:
    import numpy as np

SUPPORTED, CONTRADICTED, INCONCLUSIVE = "supported", "contradicted", "inconclusive"
UNTESTABLE, NO_VERDICT, NO_DATA = "not testable here", "no verdict", "no data"
ALPHA = 0.05
"""Level of each one-sided test; the intervals are at 1 - 2 ALPHA = 90%."""
COST = "cost"
"""The metric of claims about seconds and FLOPs."""
LEAST = 3
"""Seeds below which there is no verdict."""
POWER = 0.5
"""A match whose power is lower is not testable with so few seeds that differ so much."""


@dataclass(frozen=True)
class Part:
    """A contrast, and the open region (low, high) in which a claim says that its mean over seeds lies."""

    contrast: Contrast
    low: float
    high: float
    margin: float = math.nan
    """The margin within which the values would match, for a part that says "not worse"."""

    @property
    def lost(self) -> bool:
        """True for a "not worse" of tickets that collapsed to chance: it can be contradicted, but never supported."""
        return self.contrast.pull < 0 and not math.isnan(self.margin)

    @property
    def chance(self) -> str:
        """The curves at chance because of which the part has no verdict; empty if it has one.

        A part whose region has no border on the side to which a collapse pulls says that the curve is lower, or at most as
        high: it is about that collapse, and keeps its verdict.
        """
        pull = self.contrast.pull
        says_so = math.isinf(self.high if pull > 0 else self.low) and pull != 0
        return "" if says_so or self.lost else " and ".join(self.contrast.at_chance)


def above(contrast: Contrast, than: float = 0.0) -> Part:
    """Return the part that says: the mean is above that."""
    return Part(contrast, than, math.inf)


def under(contrast: Contrast, than: float = 0.0) -> Part:
    """Return the part that says: the mean is below that."""
    return Part(contrast, -math.inf, than)


def not_worse(contrast: Contrast, margin: float) -> Part:
    """Return the part that says: the mean is above minus the margin (a test of non-inferiority)."""
    return Part(contrast, -margin, math.inf, margin)


def matching(contrast: Contrast, margin: float) -> Part:
    """Return the part that says: the mean is within the margin of 0 (two one-sided tests)."""
    return Part(contrast, -margin, margin)


def between(contrast: Contrast, low: float, high: float) -> Part:
    """Return the part that says: the mean is between the two."""
    return Part(contrast, low, high)


@dataclass(frozen=True)
class Outcome:
    """A part with its mean, its 90% interval, n seeds and p values: NaN where nothing was tested."""

    part: Part
    mean: float
    low: float
    high: float
    n: int
    p_inside: float
    """The p value of the test against "not inside the region": small supports."""
    p_outside: float
    """The p value of the test against "inside the region": small contradicts."""
    power: float = math.nan
    """The probability of "supported", alone, if the true mean is 0, at the deviation seen; NaN if 0 is not in the region.

    NaN too for tickets that collapsed, since they are never "not worse".
    """
    reason: str = ""
    """The reason why there is no verdict; empty if there is one."""

    @property
    def verdict(self) -> str:
        if self.reason:
            return NO_VERDICT
        if self.part.low < self.low and self.high < self.part.high:
            return INCONCLUSIVE if self.part.lost else SUPPORTED
        return CONTRADICTED if self.high < self.part.low or self.low > self.part.high else INCONCLUSIVE


def outcome(part: Part, reason: str = "") -> Outcome:
    """Test a part by Student's t over seeds, one-sided at each border of the region. `reason`: against any verdict.

    Counted numbers are compared without a test: their interval goes from the smallest to the largest.
    """
    import numpy as np
    from scipy.special import stdtr, stdtrit

    values = np.array(list(part.contrast.values.values()), dtype=float)
    n, mean = len(values), float(values.mean())
    if part.contrast.counted and not reason:
        return Outcome(part, mean, float(values.min()), float(values.max()), n, math.nan, math.nan)
    reason = reason or _untested(part, values)
    if reason:
        return Outcome(part, mean, math.nan, math.nan, n, math.nan, math.nan, reason=reason)
    sd = float(values.std(ddof=1))
    error = sd / math.sqrt(n)
    half = float(stdtrit(n - 1, 1 - ALPHA)) * error
    over_low, under_low, over_high, under_high = (
        float(stdtr(n - 1, sign * (mean - border) / error)) for border in (part.low, part.high) for sign in (-1, 1)
    )
    found = power(sd, n, part.low, part.high) if part.low < 0 < part.high and not part.lost else math.nan
    inside, outside = max(over_low, under_high), min(under_low, over_high)
    return Outcome(part, mean, mean - half, mean + half, n, 1.0 if part.lost else inside, outside, found)


def _untested(part: Part, values: np.ndarray) -> str:
    """Return the reason why values have no verdict; empty if they can be tested."""
    if part.chance:
        return f"at chance: {part.chance}"
    if len(values) < LEAST:
        return f"{len(values)} seed{'s' if len(values) > 1 else ''}: no verdict below {LEAST}"
    return "all seeds have the same value: no verdict without a variance" if without_variance(values) else ""


def without_variance(values: np.ndarray) -> bool:
    """Return True for values that are equal but for rounding, of which Student's t is undefined."""
    return bool(values.std() <= 1e-9 * max(1.0, abs(values.mean())))


def power(sd: float, n: int, low: float, high: float) -> float:
    """Return the probability that the interval of n normal values with mean 0 and that deviation is in (low, high).

    Mean and deviation of normal samples are independent: it is the probability of the mean given the sample's deviation,
    averaged over the latter's chi distribution. With one border it is that of the noncentral t, with two that of Owen's Q
    functions.
    """
    import numpy as np
    from scipy.special import ndtr

    half = _half_widths(n)
    error = sd / math.sqrt(n)
    return float(np.maximum(0, ndtr(high / error - half) - ndtr(low / error + half)).mean())


@cache
def _half_widths(n: int) -> np.ndarray:
    """Return half of the interval's width in standard errors, at the midpoints of 1,000 equal parts of its distribution."""
    import numpy as np
    from scipy.special import gammaincinv, stdtrit

    shares = (np.arange(1000) + 0.5) / 1000
    return stdtrit(n - 1, 1 - ALPHA) * np.sqrt(2 * gammaincinv((n - 1) / 2, shares) / (n - 1))


@dataclass(frozen=True)
class Joint:
    """Outcomes of all parts of a claim."""

    outcomes: list[Outcome]

    @property
    def verdict(self) -> str:
        """The joint verdict: supported if all parts are (intersection-union), contradicted if any is (Bonferroni)."""
        counted = [each.verdict for each in self.outcomes if each.part.contrast.counted]
        if self.p_outside < ALPHA or CONTRADICTED in counted:
            return CONTRADICTED
        return SUPPORTED if all(each.verdict == SUPPORTED for each in self.outcomes) else self.undecided

    @property
    def undecided(self) -> str:
        """The verdict where tests decide nothing: none if a part has none; not testable if "matches" has too little power.

        An effect of 0 is the best case of a match, so its power bounds the chance of "supported" for any effect.
        """
        if any(each.reason for each in self.outcomes):
            return NO_VERDICT
        matches = [each.power for each in self.outcomes if math.isfinite(each.part.low) and math.isfinite(each.part.high)]
        return UNTESTABLE if any(each < POWER for each in matches) else INCONCLUSIVE

    @property
    def power(self) -> float:
        """The least power of a part, and so a bound on that of all together; NaN if no part has one."""
        return min((each.power for each in self.outcomes if not math.isnan(each.power)), default=math.nan)

    @property
    def counted(self) -> bool:
        """True if no part needs a test."""
        return all(each.part.contrast.counted for each in self.outcomes)

    @property
    def tested(self) -> list[Outcome]:
        """The outcomes that have a test."""
        return [each for each in self.outcomes if not math.isnan(each.p_inside)]

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
        """The part to show: the one that contradicts most, or one without a verdict, or the one supported least."""
        if self.verdict == CONTRADICTED and self.tested:
            return min(self.tested, key=lambda each: each.p_outside)
        without = [each for each in self.outcomes if each.reason]
        return min(without, key=lambda each: each.n) if without else max(self.outcomes, key=lambda each: each.p_inside)

    def two_sided(self) -> Joint | None:
        """Return the outcomes of "matches" for parts that say "not worse"; None unless all parts do."""
        if any(math.isnan(each.part.margin) for each in self.outcomes):
            return None
        return Joint([outcome(matching(each.part.contrast, each.part.margin), each.reason) for each in self.outcomes])


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
    """The column that it is about; "cost" for seconds and FLOPs."""
    reads: tuple[str, ...] = ()
    """Further columns that the function takes values from."""
    cases: Mapping[str, tuple[Any, ...]] = field(default_factory=lambda: {"": ()})
    """Name -> further arguments of the function, each judged in a row of its own."""
    varied: tuple[str, ...] = ()
    """Settings, as train.lr, that may differ within one net: the claim compares them, or they don't matter to it."""

    @property
    def costs(self) -> bool:
        """True if it is about cost: of no net's learning, and corrected apart."""
        return self.metric == COST

    def about(self, model: str) -> bool:
        """Return True if the claim is about that model."""
        return not self.nets or model.startswith(self.nets)
