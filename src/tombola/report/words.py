"""What is seen, in sentences that are computed from the records."""

import math
from collections.abc import Mapping
from typing import Any

from tombola.report.panels import Panel
from tombola.report.quantities import NONE, Quantity, left, listed, number
from tombola.report.settings import values, written
from tombola.report.statistics import (
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
    """The sentences about one panel: ticket against dense, against every other curve, calibration, sigma."""
    sentences = [dense_sentence(panel)]
    for curve in panel.curves:
        if curve == panel.reference:
            continue
        level = common_level(panel.records, panel.reference, curve, panel.main.column)
        if level is None:
            sentences.append(f"{panel.reference} and {curve} share no level and seed yet.")
            continue
        gap = paired_gap(panel.records, panel.reference, curve, level, panel.main.column)
        where = f"at {left(density_at(panel.records, level))} of weights left (level {level})"
        sentences.append(gap_sentence(panel.reference, curve, gap, panel.main, where))
    return [*sentences, *calibration_sentences(panel), *drift_sentences(panel), *diverged_sentences(panel)]


def gap_sentence(a: str, b: str, gap: Gap, quantity: Quantity, where: str) -> str:
    """Whether a is above b, below it, or neither, with the mean gap, its interval and the number of seeds."""
    mean = f"{quantity.signed(gap.mean)} {quantity.gap_unit}"
    if gap.n < 2:
        return f"{a} minus {b} is {mean} in {quantity.name} {where}: n = 1 seed, so no interval and no verdict."
    seeds = f"n = {gap.n} seeds"
    numbers = f"mean gap {mean}, 95% interval {interval(gap, quantity)}, {seeds}"
    if gap.low > 0:
        verdict = f"is above {b}"
    elif gap.high < 0:
        verdict = f"is below {b}"
    else:
        verdict = f"cannot be told apart from {b} with {gap.n} seeds"
    better = "" if quantity.higher_is_better else " (lower is better)"
    return f"{a} {verdict} in {quantity.name}{better} {where}: {numbers}."


def interval(gap: Gap, quantity: Quantity) -> str:
    """ "+1.20 to +3.40"; a dash where there is no interval."""
    return NONE if math.isnan(gap.low) else f"{quantity.signed(gap.low)} to {quantity.signed(gap.high)}"


def dense_sentence(panel: Panel) -> str:
    """The reference at its last level, and against its own dense network."""
    curve, quantity, records = panel.reference, panel.main, panel.records
    reached = levels(records, curve, quantity.column)
    if not reached:
        return f"{curve}: no level is finished."
    last = common_level(records, curve, curve, quantity.column) or reached[-1]  # with two seeds, if a sparse level has
    value = quantity.show(by_seed(records, curve, last, quantity.column).mean())
    if reached[0] != 0:
        return f"{curve} has a {quantity.name} of {value} at level {last}; its dense network is not finished."
    dense = quantity.show(by_seed(records, curve, 0, quantity.column).mean())
    if last == 0:
        return f"{curve}: only the dense network is finished, with a {quantity.name} of {dense}."
    where = f"at {left(density_at(records, last))} of weights left (level {last})"
    gap = level_gap(records, curve, last, 0, quantity.column)
    if gap.n == 0:
        return f"{curve}: {quantity.name} {dense} dense, {value} {where}; no seed has both."
    lead = f"{curve}: {quantity.name} {dense} dense, {value} at level {last}. "
    return lead + gap_sentence(f"Level {last}", "the dense network", gap, quantity, where)


def calibration_sentences(panel: Panel) -> list[str]:
    """Whether the reference's last ECE exceeds what perfect calibration would show; none for regression."""
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
    """How far the reference's final sigmas still rank as the initial ones did; none without sigmas."""
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
    """How many tickets have no finite result; none if all have one."""
    missing = int(panel.records[[panel.main.column, "nll"]].isna().any(axis=1).sum())
    if not missing:
        return []
    return [
        f"{missing} of {len(panel.records)} tickets have no finite {panel.main.name} or NLL, as after a diverged "
        "training; figures, tables and gaps leave these values out."
    ]


def caveat(study: Mapping[str, Any]) -> str:
    """What the gaps to re-init and shuffles depend on, with this study's settings."""
    lr = written(values(study, "train", "lr"))
    pruned = values(study, "prune", "classifier")
    classifier = listed(["it is" if each else "it is not" for each in pruned]) if pruned else "not stated"
    return (
        f"The gaps to re-init and shuffles depend on the learning rate (here {lr}) — a higher one shrinks the gap to "
        f"re-init — and on whether the final classifier is pruned (here {classifier})."
    )


def unfinished(missing: int) -> str:
    """ "unfinished: 3 stages to go"; empty if nothing is missing."""
    return f"unfinished: {missing} stage{'s' if missing != 1 else ''} to go" if missing else ""


def lead(panels: list[Panel]) -> str:
    """What the study is, in one sentence."""
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
