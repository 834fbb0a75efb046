"""The captions under the figures: what is drawn, and what is seen in it."""

import pandas as pd

from tombola.report.panels import Panel
from tombola.report.quantities import DRIFT, Quantity, left, listed, number, shortened
from tombola.report.statistics import by_seed, density_at, exceeding, levels, shared_level, summary

MARKS = "Mark: mean over seeds; bar: from the smallest to the largest; moved aside a little, that none hides another."


def over_density(panel: Panel, quantity: Quantity, *, twice: bool = False) -> str:
    """How to read the curves, and which one leads at the last level that all have. `twice`: also without controls."""
    drawn = ": all curves, then a closer look without re-init and shuffles" if twice else ""
    seen = f"{_spread(panel, quantity)} {leader(panel, quantity)}"
    return f"{sentence(quantity.name)} over weights left{drawn}. {seen}"


def calibration(panel: Panel, quantities: list[Quantity]) -> str:
    """What the grey band is, and which curves leave their own range at their last level."""
    names = listed([quantity.name for quantity in quantities])
    seen = " ".join(_exceeding(panel, quantity) for quantity in quantities)
    return (
        f"Calibration: {names} over weights left; lower is better. {_spread(panel, quantities[0])} Grey: what a "
        "perfectly calibrated model with the same predictions would show, for lack of test examples alone; mean and "
        f"95% range, averaged over the curves. Only what lies above it is miscalibration. {seen}"
    )


def explored(panel: Panel, quantity: Quantity) -> str:
    """The caption of the interactive chart when it shows that quantity."""
    null = f"{quantity.column}_null"
    grey = " Grey: mean and 95% range under perfect calibration." if null in panel.records else ""
    return over_density(panel, quantity) + grey


def drift(panel: Panel) -> str:
    """What the three quantities are, and the rank correlation at every curve's last level."""
    seen = []
    for curve in panel.curves:
        reached = levels(panel.records, curve, "drift_rank")
        if reached:
            rank = by_seed(panel.records, curve, reached[-1], "drift_rank").mean()
            seen.append(f"{curve} {number(rank)}")
    ranks = f" Rank correlation at each curve's last level: {listed(seen)}." if seen else ""
    return (
        "Sigma drift over weights left: how log sigma changes from its initialisation, as a mean over the surviving "
        "weights, as the standard deviation of that change, and as the rank correlation of initial and final sigma (near "
        f"1: a score that uses sigma ranks the initial jitter). {_spread(panel, DRIFT[0])}{ranks}"
    )


def layer_dots(panel: Panel, found: pd.DataFrame, level: int) -> str:
    """Which layers keep the most and the least on every curve that prunes, and the layers that are empty."""
    seen = []
    for curve, rows in found.groupby("curve", sort=False):
        ordered = rows.sort_values("mean", kind="stable")
        least, most = ordered.iloc[0], ordered.iloc[-1]
        seen.append(
            f"{curve} keeps most of {most['layer']} ({left(most['mean'])}) and least of {least['layer']} "
            f"({left(least['mean'])})."
        )
    gone = found[found["mean"] == 0]
    empty = [f"{layer} ({curve})" for layer, curve in zip(gone["layer"], gone["curve"], strict=True)]
    rest = f" Empty, and not drawn: {shortened(empty)}." if empty else ""
    return (
        f"Density per layer with {left(density_at(panel.records, level))} left overall (level {level}), for the curves "
        f"that find their own mask. Dot: mean over seeds; bar: smallest to largest. {' '.join(seen)}{rest}"
    )


def heat(table: pd.DataFrame, curves: list[str]) -> str:
    """What a cell is, and the layers that lose all their weights on those curves."""
    gone = []
    for curve in curves:
        rows = table[(table["curve"] == curve) & (table["mean"] == 0)]
        first = rows.groupby("layer", sort=False)["level"].min()
        gone += [f"{layer} of {curve} from level {level}" for layer, level in first.items()]
    seen = f" White: nothing is left, as {shortened(gone)}." if gone else " No layer is empty."
    return (
        "Density of every layer (rows, in the order of the network) at every level (columns); the colour is the mean over "
        f"seeds, on one log scale for all curves.{seen}"
    )


def _spread(panel: Panel, quantity: Quantity) -> str:
    counts = summary(panel.records, quantity.column)["n"]
    if counts.max() == 1:
        return "One seed: no spread shown."
    some = "" if counts.min() == counts.max() else f" (some points have only {counts.min()})"
    return f"Line: mean over {counts.max()} seeds{some}; band: smallest to largest."


def seeds(panel: Panel, quantity: Quantity) -> str:
    """Of how many seeds a mean is."""
    counts = summary(panel.records, quantity.column)["n"]
    least, most = int(counts.min()), int(counts.max())
    return f"{most} seed{'s' if most > 1 else ''}{'' if least == most else f' (some points have only {least})'}."


def leader(panel: Panel, quantity: Quantity) -> str:
    """Which curve is ahead at the sparsest level that all have, by how much, and which is last."""
    found = summary(panel.records, quantity.column)
    curves = [curve for curve in panel.curves if (found["curve"] == curve).any()]
    level = shared_level(panel.records, curves, quantity.column)
    if level is None:
        return "The curves have no level in common yet."
    means = found[found["level"] == level].set_index("curve")["mean"]
    ordered = means.sort_values(ascending=not quantity.higher_is_better)
    first = f"{ordered.index[0]} has {quantity.show(ordered.iloc[0])}"
    where = f"At {left(density_at(panel.records, level))} left, the sparsest level that all curves have,"
    if len(ordered) == 1:
        return f"{where} {first}."
    ahead = f"{quantity.signed(abs(ordered.iloc[0] - ordered.iloc[1])).removeprefix('+')} {quantity.gap_unit}"
    extreme = "highest" if quantity.higher_is_better else "lowest"
    return (
        f"{where} {first}, the {extreme} mean, {ahead} from the next, {ordered.index[1]}; {ordered.index[-1]} is last "
        f"with {quantity.show(ordered.iloc[-1])}."
    )


def _exceeding(panel: Panel, quantity: Quantity) -> str:
    always, sometimes = [], []
    for curve in panel.curves:
        reached = levels(panel.records, curve, f"{quantity.column}_null_high")
        if not reached:
            continue
        above, n = exceeding(panel.records, curve, reached[-1], quantity.column)
        if 0 < above == n:
            always.append(curve)
        elif above:
            sometimes.append(curve)
    names = "every curve" if len(always) == len(panel.curves) else listed(always)
    some = f"; in some seeds for {listed(sometimes)}" if sometimes else ""
    return f"At a curve's last level, {quantity.name} is above that curve's own range in every seed for {names}{some}."


def sentence(name: str) -> str:
    """The name as a sentence begins."""
    return name[0].upper() + name[1:]
