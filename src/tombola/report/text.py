"""Remarks and captions: sentences computed from the records. A caption has at most two: how to read it, what is seen."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tombola.claims.verdict import LEAST
from tombola.metrics.column import NONE, Column, left, listed

from .panels import Panel, values, written
from .quantities import DRIFT, number, shortened
from .statistics import Gap, by_seed, common_level, density_at, exceeding, levels

INTERVALS = (
    "The intervals are 95% Student t intervals of the paired difference over seeds: they say how much another seed may "
    "change it. They do not describe the sampling of test examples, and they are not adjusted for how many there are. Fewer "
    "than three seeds, or equal gaps in all, give no verdict."
)


def gap_sentence(a: str, b: str, gap: Gap, quantity: Column, where: str) -> str:
    """State that a is above b, below it, or neither, with the mean gap, its interval and the number of seeds."""
    mean = f"{quantity.signed(gap.mean)} {quantity.gap_unit}"
    seeds = f"n = {gap.n} seed{'s' if gap.n > 1 else ''}"
    if math.isnan(gap.low):
        equal = " with equal gaps" if gap.n > 1 else ""
        return f"{a} minus {b} is {mean} in {quantity.label} {where}: {seeds}{equal}, so no interval and no verdict."
    numbers = f"mean gap {mean}, 95% interval {interval(gap, quantity)}, {seeds}"
    if not judged(gap):
        return f"{a} minus {b} in {quantity.label} {where}: {numbers}, so no verdict."
    if gap.low > 0:
        verdict = f"is above {b}"
    elif gap.high < 0:
        verdict = f"is below {b}"
    else:
        verdict = f"cannot be told apart from {b} with {gap.n} seeds"
    better = "" if quantity.higher_is_better else " (lower is better)"
    return f"{a} {verdict} in {quantity.label}{better} {where}: {numbers}."


def interval(gap: Gap, quantity: Column) -> str:
    """Return "+1.20 to +3.40"; a dash where there is no interval."""
    return NONE if math.isnan(gap.low) else f"{quantity.signed(gap.low)} to {quantity.signed(gap.high)}"


def judged(gap: Gap) -> bool:
    """Return True if the gap has an interval and seeds enough for a verdict, as many as claims need."""
    return gap.n >= LEAST and not math.isnan(gap.low)


def verdict(gap: Gap) -> str:
    """Return "above", "below" or "not told apart" for the first of two curves; a dash if the gap is not judged."""
    if not judged(gap):
        return NONE
    return "above" if gap.low > 0 else "below" if gap.high < 0 else "not told apart"


def remarks(panel: Panel) -> list[str]:
    """Return sentences on what figures and tables lack: a common level, numbers, equal shares at a level."""
    records, name = panel.records, panel.main.name
    apart = [c for c in panel.curves if common_level(records, panel.reference, c, name) is None]
    found = [f"{panel.reference} shares no level and seed yet with {shortened(apart)}."] if apart else []
    missing = int(records[[name, "nll"]].isna().any(axis=1).sum())
    if missing:
        found.append(
            f"{missing} of {len(records)} tickets have no finite {panel.main.label} or NLL, as after a diverged training; "
            "figures, tables and gaps leave these values out."
        )
    left_at = records.groupby(["level", "curve"])["density"].mean().groupby("level")
    if (left_at.max() > 1.1 * left_at.min()).any():
        found.append(
            "Curves keep unlike shares of the weights at one level, as by a budget of operations: tables and gaps compare "
            "level by level, and name the mean share."
        )
    return found


def caveat(study: Mapping[str, Any]) -> str:
    """Name the settings on which the gaps to re-init and shuffles depend, with this study's values."""
    lr = written(values(study, "train", "lr"))
    pruned = values(study, "prune", "classifier")
    classifier = listed(["it is" if each else "it is not" for each in pruned]) if pruned else "not stated"
    return (
        f"The gaps to re-init and shuffles depend on the learning rate (here {lr}) — a higher one shrinks the gap to "
        f"re-init — and on whether the final classifier is pruned (here {classifier})."
    )


def unfinished(missing: int) -> str:
    """Return "unfinished: 3 stages to go"; an empty text if nothing is missing."""
    return f"unfinished: {missing} stage{'s' if missing != 1 else ''} to go" if missing else ""


def about(panels: list[Panel]) -> str:
    """Return what was run in a line, such as "mlp on digits · 3 seeds · 189 tickets, down to 1.15% of the weights"."""
    if not panels:
        return "nothing is finished yet"
    titles = list(dict.fromkeys(panel.net for panel in panels))
    least = min(panel.records["density"].min() for panel in panels)
    seeds = max(panel.records["seed"].nunique() for panel in panels)
    tickets = sum(len(panel.records) for panel in panels)
    parts = [shortened(titles), f"{len(panels)} variants" if len(panels) > len(titles) else ""]
    parts += [f"{seeds} seed{'s' if seeds != 1 else ''}"]
    parts += [f"{tickets} tickets, " + ("without pruning" if least == 1 else f"down to {left(least)} of the weights")]
    return " · ".join(filter(None, parts))


MARKS = "Mark: mean over seeds; bar: from the smallest to the largest; moved aside a little, that none hides another."


def over_density(panel: Panel, quantity: Column, *, twice: bool = False) -> str:
    """Caption curves, with the one that leads at the last level that all have. `twice`: also drawn without controls."""
    drawn = ": a closer look without controls, and all curves" if twice else ""
    grey = "; grey: mean and 95% range under perfect calibration" if f"{quantity.name}_null" in panel.records else ""
    return f"{sentence(quantity.label)} over weights left{drawn}; {spread(panel, quantity)}{grey}. {leader(panel, quantity)}"


def over_operations(panel: Panel) -> str:
    """Caption the main quantity over operations."""
    return (
        f"{sentence(panel.main.label)} over the share of the dense network's multiply-adds that is left where products by "
        f"pruned weights are not made, as by tombola.compile; torch makes them all. {sentence(spread(panel, panel.main))}."
    )


def quality(panel: Panel, quantities: list[Column], fewer: bool) -> str:
    """Caption NLL and calibration errors, with the curves drawn that leave their own range at their last level."""
    curves = panel.uncontrolled() if fewer else panel.curves
    names = listed([quantity.label for quantity in quantities])
    errors = [quantity for quantity in quantities if f"{quantity.name}_null_high" in panel.records]
    grey = "; grey: what perfect calibration would show, mean and 95% range" if errors else ""
    seen = "; ".join(_exceeding(panel, curves, quantity) for quantity in errors)
    without = ", without controls" if fewer else ""
    last = f" At a curve's last level, {seen}." if errors else ""
    return f"{names} (lower is better) over weights left{without}; {spread(panel, quantities[0])}{grey}.{last}"


def drift(panel: Panel) -> str:
    """Caption the drift of sigma, with the rank correlation at every curve's last level."""
    seen = []
    for curve in panel.curves:
        reached = levels(panel.records, curve, "drift_rank")
        if reached:
            rank = by_seed(panel.records, curve, reached[-1], "drift_rank").mean()
            seen.append(f"{curve} {number(rank)}")
    ranks = f" Rank correlation at each curve's last level: {shortened(seen)}." if seen else ""
    return (
        "How far training moves log sigma: mean and standard deviation of its change over the surviving weights, and the "
        "rank correlation of initial and final sigma (near 1: a score that uses sigma ranks the initial jitter); "
        f"{spread(panel, DRIFT[0])}.{ranks}"
    )


def layers(panel: Panel, table: pd.DataFrame, level: int | None, mapped: Sequence[str]) -> str:
    """Caption the densities of layers, with the layers that keep the most, the least and none."""
    parts, seen = [], []
    if level is not None:
        parts.append(f"as dots at the last level that all curves have ({left(density_at(panel.records, level))} left)")
        rows = table[(table["level"] == level) & (table["curve"] == mapped[0])].sort_values("mean", kind="stable")
        least, most = rows.iloc[0], rows.iloc[-1]
        seen.append(
            f"{mapped[0]} keeps most of {most['layer']} ({left(most['mean'])}) and least of {least['layer']} "
            f"({left(least['mean'])})"
        )
    parts += ["as colours at every level"] if table["level"].nunique() > 1 else []
    gone = []
    for curve in mapped:
        rows = table[(table["curve"] == curve) & (table["mean"] == 0)]
        first = rows.groupby("layer", sort=False)["level"].min()
        gone += [f"{layer} of {curve} from level {level}" for layer, level in first.items()]
    seen.append(f"nothing is left (white) of {shortened(gone)}" if gone else "no layer is empty")
    return f"Weights left in each layer, {listed(parts)}, means over seeds. {sentence('; '.join(seen))}."


def spread(panel: Panel, quantity: Column) -> str:
    """Return what line and band are of, or that one seed has no spread."""
    if panel.summary(quantity.name)["n"].max() == 1:
        return "one seed, so no spread is shown"
    return f"line: mean over {seeds(panel, quantity).removesuffix('.')}, band: smallest to largest"


def seeds(panel: Panel, quantity: Column) -> str:
    """Return the number of seeds behind a mean, as a sentence."""
    counts = panel.summary(quantity.name)["n"]
    least, most = int(counts.min()), int(counts.max())
    return f"{most} seed{'s' if most > 1 else ''}{'' if least == most else f' (some points have only {least})'}."


def leader(panel: Panel, quantity: Column) -> str:
    """Name the curve that is ahead at the sparsest level that all have, by how much, and the last one."""
    found = panel.summary(quantity.name)
    curves_at = found.groupby("level")["curve"].nunique()
    shared = curves_at.index[curves_at == found["curve"].nunique()]
    if not len(shared):
        return "The curves have no level in common yet."
    level = int(shared.max())
    means = found[found["level"] == level].set_index("curve")["mean"]
    ordered = means.sort_values(ascending=not quantity.higher_is_better)
    first = f"{ordered.index[0]} has {quantity.show(ordered.iloc[0])}"
    where = f"At {left(density_at(panel.records, level))} left, the sparsest level that all curves have,"
    if len(ordered) == 1:
        return f"{where} {first}."
    ahead = f"{quantity.signed(abs(ordered.iloc[0] - ordered.iloc[1])).removeprefix('+')} {quantity.gap_unit}".rstrip()
    extreme = "highest" if quantity.higher_is_better else "lowest"
    return (
        f"{where} {first}, the {extreme} mean, {ahead} from the next, {ordered.index[1]}; {ordered.index[-1]} is last "
        f"with {quantity.show(ordered.iloc[-1])}."
    )


def _exceeding(panel: Panel, curves: Sequence[str], quantity: Column) -> str:
    always, sometimes = [], []
    for curve in curves:
        reached = levels(panel.records, curve, f"{quantity.name}_null_high")
        if not reached:
            continue
        above, n = exceeding(panel.records, curve, reached[-1], quantity.name)
        if 0 < above == n:
            always.append(curve)
        elif above:
            sometimes.append(curve)
    names = "every curve" if len(always) == len(curves) else shortened(always) if always else "no curve"
    some = f", in some seeds for {shortened(sometimes)}" if sometimes else ""
    return f"{quantity.label} is above that curve's own range in every seed for {names}{some}"


def sentence(name: str) -> str:
    """Return the text with a capital letter."""
    return name[0].upper() + name[1:]
