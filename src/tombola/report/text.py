"""Findings and captions: sentences computed from the records. A caption has at most two: how to read it, what is seen."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from tombola.metrics.column import NONE, Column

from .panels import Panel, values, written
from .quantities import DRIFT, left, listed, number, shortened
from .statistics import (
    Gap,
    by_seed,
    common_level,
    density_at,
    exceeding,
    level_gap,
    levels,
    paired_gap,
)

INTERVALS = (
    "The intervals are 95% Student t intervals of the paired difference over seeds: they say how much another seed may "
    "change it. They do not describe the sampling of test examples, and they are not adjusted for how many there are."
)


def findings(panel: Panel) -> list[str]:
    """Return the sentences about one panel: ticket against dense, against every other curve, calibration, sigma."""
    sentences = [dense_sentence(panel)]
    for curve in panel.curves:
        if curve == panel.reference:
            continue
        level = common_level(panel.records, panel.reference, curve, panel.main.name)
        if level is None:
            sentences.append(f"{panel.reference} and {curve} share no level and seed yet.")
            continue
        gap = paired_gap(panel.records, panel.reference, curve, level, panel.main.name)
        where = f"at {left(density_at(panel.records, level))} of weights left (level {level})"
        sentences.append(gap_sentence(panel.reference, curve, gap, panel.main, where))
    return [*sentences, *calibration_sentences(panel), *drift_sentences(panel), *diverged_sentences(panel)]


def gap_sentence(a: str, b: str, gap: Gap, quantity: Column, where: str) -> str:
    """State that a is above b, below it, or neither, with the mean gap, its interval and the number of seeds."""
    mean = f"{quantity.signed(gap.mean)} {quantity.gap_unit}"
    if gap.n < 2:
        return f"{a} minus {b} is {mean} in {quantity.label} {where}: n = 1 seed, so no interval and no verdict."
    seeds = f"n = {gap.n} seeds"
    numbers = f"mean gap {mean}, 95% interval {interval(gap, quantity)}, {seeds}"
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


def dense_sentence(panel: Panel) -> str:
    """Compare the reference at its last level with its own dense network."""
    curve, quantity, records = panel.reference, panel.main, panel.records
    reached = levels(records, curve, quantity.name)
    if not reached:
        return f"{curve}: no level is finished."
    last = common_level(records, curve, curve, quantity.name) or reached[-1]  # with two seeds, if a sparse level has
    value = quantity.show(by_seed(records, curve, last, quantity.name).mean())
    if reached[0] != 0:
        return f"{curve} has a {quantity.label} of {value} at level {last}; its dense network is not finished."
    dense = quantity.show(by_seed(records, curve, 0, quantity.name).mean())
    if last == 0:
        return f"{curve}: only the dense network is finished, with a {quantity.label} of {dense}."
    where = f"at {left(density_at(records, last))} of weights left (level {last})"
    gap = level_gap(records, curve, last, 0, quantity.name)
    if gap.n == 0:
        return f"{curve}: {quantity.label} {dense} dense, {value} {where}; no seed has both."
    lead = f"{curve}: {quantity.label} {dense} dense, {value} at level {last}. "
    return lead + gap_sentence(f"Level {last}", "the dense network", gap, quantity, where)


def calibration_sentences(panel: Panel) -> list[str]:
    """Compare the reference's last ECE with what perfect calibration would show; none for regression."""
    curve, records = panel.reference, panel.records
    last = common_level(records, curve, curve, "ece")  # with two seeds, if there are two
    if last is None:
        return []
    above, n = exceeding(records, curve, last, "ece")
    if n == 0:
        return []
    ece, low, high = (by_seed(records, curve, last, name).mean() for name in ("ece", "ece_null_low", "ece_null_high"))
    verdict = "is above" if above == n else "is not above" if above == 0 else "is, in some seeds, above"
    return [
        f"ECE of {curve} at {left(density_at(records, last))} of weights left {verdict} the range of a "
        f"perfectly calibrated model of the same predictions: {number(ece)} against {number(low)} to {number(high)} "
        f"(means over seeds; above its own range in {above} of {n} seed{'s' if n > 1 else ''})."
    ]


def drift_sentences(panel: Panel) -> list[str]:
    """Compare the ranks of the reference's final sigmas with the initial ones; none without sigmas."""
    reached = levels(panel.records, panel.reference, "drift_rank")
    if not reached:
        return []
    rank = by_seed(panel.records, panel.reference, reached[-1], "drift_rank").mean()
    if rank > 0.9:
        meaning = "sigma still ranks as it was initialised, so a score that uses sigma ranks the initial jitter"
    elif rank > 0.5:
        meaning = "sigma partly ranks as it was initialised; read scores that use sigma with care"
    else:
        meaning = "sigma no longer ranks as it was initialised"
    return [f"Initial and final sigma of {panel.reference} have rank correlation {number(rank)}: {meaning}."]


def diverged_sentences(panel: Panel) -> list[str]:
    """Count the tickets without a finite result; none if all have one."""
    missing = int(panel.records[[panel.main.name, "nll"]].isna().any(axis=1).sum())
    if not missing:
        return []
    return [
        f"{missing} of {len(panel.records)} tickets have no finite {panel.main.label} or NLL, as after a diverged "
        "training; figures, tables and gaps leave these values out."
    ]


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


def lead(panels: list[Panel]) -> str:
    """Describe the study in one sentence."""
    if not panels:
        return "A study of sparse Bayesian neural networks through lottery tickets: nothing is finished yet."
    titles = listed([panel.title for panel in panels])
    least = min(panel.records["density"].min() for panel in panels)
    seeds = max(panel.records["seed"].nunique() for panel in panels)
    what = f"{titles}, {seeds} seed{'s' if seeds != 1 else ''}"
    if least == 1:
        return f"Networks are trained and tested, without pruning: {what}."
    return (
        f"Networks are trained, pruned and rewound again and again, down to {left(least)} of "
        f"the prunable weights, and every ticket is tested: {what}."
    )


MARKS = "Mark: mean over seeds; bar: from the smallest to the largest; moved aside a little, that none hides another."


def over_density(panel: Panel, quantity: Column, *, twice: bool = False) -> str:
    """Caption curves, with the one that leads at the last level that all have. `twice`: also drawn without controls."""
    drawn = ": all curves, then a closer look without re-init and shuffles" if twice else ""
    grey = "; grey: mean and 95% range under perfect calibration" if f"{quantity.name}_null" in panel.records else ""
    spread = _spread(panel, quantity)
    return f"{sentence(quantity.label)} over weights left{drawn}; {spread}{grey}. {leader(panel, quantity)}"


def calibration(panel: Panel, quantities: list[Column]) -> str:
    """Caption the calibration errors, with the curves that leave their own range at their last level."""
    names = listed([quantity.label for quantity in quantities])
    seen = "; ".join(_exceeding(panel, quantity) for quantity in quantities)
    return (
        f"Calibration: {names} over weights left (lower is better); {_spread(panel, quantities[0])}; grey: mean and 95% "
        "range of a perfectly calibrated model with the same predictions, averaged over the curves, so that only what lies "
        f"above it is miscalibration. At a curve's last level, {seen}."
    )


def drift(panel: Panel) -> str:
    """Caption the drift of sigma, with the rank correlation at every curve's last level."""
    seen = []
    for curve in panel.curves:
        reached = levels(panel.records, curve, "drift_rank")
        if reached:
            rank = by_seed(panel.records, curve, reached[-1], "drift_rank").mean()
            seen.append(f"{curve} {number(rank)}")
    ranks = f" Rank correlation at each curve's last level: {listed(seen)}." if seen else ""
    return (
        "Sigma drift over weights left: the change of log sigma from its initialisation, as a mean over the surviving "
        "weights, as its standard deviation, and as the rank correlation of initial and final sigma (near 1: a score that "
        f"uses sigma ranks the initial jitter); {_spread(panel, DRIFT[0])}.{ranks}"
    )


def layer_dots(panel: Panel, found: pd.DataFrame, level: int) -> str:
    """Caption the densities of layers, with the layers that keep the most and the least, and the empty ones."""
    seen = []
    for curve, rows in found.groupby("curve", sort=False):
        ordered = rows.sort_values("mean", kind="stable")
        least, most = ordered.iloc[0], ordered.iloc[-1]
        seen.append(
            f"{curve} keeps most of {most['layer']} ({left(most['mean'])}) and least of {least['layer']} "
            f"({left(least['mean'])})"
        )
    gone = found[found["mean"] == 0]
    empty = [f"{layer} ({curve})" for layer, curve in zip(gone["layer"], gone["curve"], strict=True)]
    rest = f"; empty, and not drawn: {shortened(empty)}" if empty else ""
    return (
        f"Density per layer with {left(density_at(panel.records, level))} left overall (level {level}), for the curves "
        f"that find their own mask; dot: mean over seeds, bar: smallest to largest. {sentence('; '.join(seen))}{rest}."
    )


def heat(table: pd.DataFrame, curves: list[str]) -> str:
    """Caption a heat map, with the layers that lose all their weights on the curves."""
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


def _spread(panel: Panel, quantity: Column) -> str:
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


def _exceeding(panel: Panel, quantity: Column) -> str:
    always, sometimes = [], []
    for curve in panel.curves:
        reached = levels(panel.records, curve, f"{quantity.name}_null_high")
        if not reached:
            continue
        above, n = exceeding(panel.records, curve, reached[-1], quantity.name)
        if 0 < above == n:
            always.append(curve)
        elif above:
            sometimes.append(curve)
    names = "every curve" if len(always) == len(panel.curves) else listed(always)
    some = f", in some seeds for {listed(sometimes)}" if sometimes else ""
    return f"{quantity.label} is above that curve's own range in every seed for {names}{some}"


def sentence(name: str) -> str:
    """Return the text with a capital letter."""
    return name[0].upper() + name[1:]
