"""Statistics over seeds, for the records of one panel: one model, one data set, one variant."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from tombola.claims.verdict import without_variance

CONFIDENCE = 0.95
KEYS = ["curve", "level", "seed"]


@dataclass(frozen=True)
class Gap:
    """A mean difference over n seeds and its 95% interval, in the metric's unit. NaN below two seeds or without variance."""

    mean: float
    low: float
    high: float
    n: int


def paired_gap(records: pd.DataFrame, curve_a: str, curve_b: str, level: int, metric: str) -> Gap:
    """Return curve a minus curve b at a level, paired over the seeds that both have."""
    return _gap(by_seed(records, curve_a, level, metric) - by_seed(records, curve_b, level, metric))


def level_gap(records: pd.DataFrame, curve: str, level_a: int, level_b: int, metric: str) -> Gap:
    """Return level a minus level b of one curve, paired over the seeds that both have."""
    return _gap(by_seed(records, curve, level_a, metric) - by_seed(records, curve, level_b, metric))


def by_seed(records: pd.DataFrame, curve: str, level: int, metric: str) -> pd.Series:
    """Return the metric of a curve at a level, indexed by seed, without seeds that have no value."""
    # arrays rather than frames: a page asks some hundred times
    at = (records["curve"].to_numpy() == curve) & (records["level"].to_numpy() == level)
    seeds = pd.Index(records["seed"].to_numpy()[at], name="seed")
    found = pd.Series(records[metric].to_numpy(dtype=float)[at], index=seeds, name=metric).dropna().sort_index()
    return found if found.index.is_unique else found.groupby(level="seed").mean()


def _gap(differences: pd.Series) -> Gap:
    """Return the mean and its Student t interval (n - 1 degrees of freedom), where there are two unlike values or more."""
    found = differences.dropna()  # pandas aligns the seeds and leaves NaN where one of the two is missing
    n = len(found)
    mean = float(found.mean()) if n else math.nan
    if n < 2 or without_variance(found.to_numpy()):
        return Gap(mean, math.nan, math.nan, n)
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2) * found.std(ddof=1) / math.sqrt(n))
    return Gap(mean, mean - half, mean + half, n)


def common_level(records: pd.DataFrame, curve_a: str, curve_b: str, metric: str) -> int | None:
    """Return the sparsest level at which both share two seeds; failing that, one seed; None if they share no seed."""
    lone = None
    for level in reversed(levels(records, curve_a, metric)):
        seeds = paired_gap(records, curve_a, curve_b, level, metric).n
        # an unfinished study has one seed ahead of the others: a level that only it has reached gives no interval
        if seeds >= 2:
            return level
        if seeds == 1 and lone is None:
            lone = level
    return lone


def gaps(records: pd.DataFrame, a: str, b: str, metric: str, *, every_level: bool) -> Iterator[tuple[int, Gap]]:
    """Yield level and gap of curve a minus curve b, at the sparsest level that both have or at every one."""
    last = common_level(records, a, b, metric)
    for level in levels(records, a, metric) if every_level else [] if last is None else [last]:
        gap = paired_gap(records, a, b, level, metric)
        if gap.n:
            yield level, gap


def levels(records: pd.DataFrame, curve: str, metric: str) -> list[int]:
    """Return the levels at which the curve has a value, in rising order."""
    found = records.loc[(records["curve"] == curve) & records[metric].notna(), "level"]
    return sorted(int(level) for level in found.unique())


def shared_level(records: pd.DataFrame, curves: Sequence[str], metric: str) -> int | None:
    """Return the sparsest level that all of the curves have, or None."""
    shared = set.intersection(*(set(levels(records, curve, metric)) for curve in curves)) if curves else set()
    return max(shared, default=None)


def summary(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a row for each curve and level: density, mean, sd (n - 1), low, high (range over seeds), n; levels rise."""
    seeds = by_curve_and_seed(records.loc[records[metric].notna(), [*KEYS, "density", metric]], [metric])
    groups = seeds.groupby(["curve", "level"])
    found = groups[metric]
    columns = {"mean": found.mean(), "sd": found.std(), "low": found.min(), "high": found.max(), "n": found.count()}
    return pd.DataFrame({"density": groups["density"].mean(), **columns}).reset_index()  # sorted, as groups are


def by_curve_and_seed(records: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return a row for each curve, level and seed, with the means of density and of the columns."""
    return records.groupby(KEYS, as_index=False)[["density", *columns]].mean()


def density_at(records: pd.DataFrame, level: int) -> float:
    """Return the mean density of the rows at a level."""
    return float(np.mean(records.loc[records["level"] == level, "density"]))


def exceeding(records: pd.DataFrame, curve: str, level: int, metric: str) -> tuple[int, int]:
    """Count the seeds whose calibration error is above its own perfect-calibration range, and all seeds."""
    error = by_seed(records, curve, level, metric)
    bound = by_seed(records, curve, level, f"{metric}_null_high")
    known = error.index.intersection(bound.index)
    return int((error[known] > bound[known]).sum()), len(known)
