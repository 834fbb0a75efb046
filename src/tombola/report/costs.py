"""What tickets cost, from the dense start on: one at the last level, and one at every level."""

import math
from collections.abc import Callable

import pandas as pd

from tombola.report.panels import OWN_MASK, Panel
from tombola.report.quantities import NONE, duration, left
from tombola.report.statistics import density_at
from tombola.report.tables import Table

SHOWN = (*OWN_MASK, "transplant")
MEASURES: dict[str, Callable[[float], str]] = {
    "seconds": duration,
    "flops": lambda value: NONE if math.isnan(value) else f"{value:.3g}",
}
"""What is counted, by the end of its columns' names, and how it is written."""


def cost_table(panel: Panel) -> Table:
    """Training time and operations of each curve's tickets, a mean over seeds, beside those of the reference.

    No rows for fewer than two curves.
    """
    curves = [curve for curve in panel.curves if panel.arm(curve) in SHOWN]
    columns = {f"{part}_{measure}" for part in ("train", "total") for measure in MEASURES}
    last = _last_level(panel.records, curves) if len(curves) > 1 and columns <= set(panel.records) else None
    if last is None:
        return Table(title="", head=[], rows=[])
    found = {(curve, measure): _costs(panel, curve, last, measure) for curve in curves for measure in MEASURES}
    rows = []
    for curve in curves:
        row = [curve]
        for measure, written in MEASURES.items():
            for own, reference in zip(found[curve, measure], found[panel.reference, measure], strict=True):
                row += [written(own), f"{own / reference:.2f}" if own / reference > 0 else NONE]
        rows.append(row)
    return Table(
        title=f"What tickets cost, down to {left(density_at(panel.records, last))} left",
        groups=(("", 1), ("training time", 4), ("operations", 4)),
        head=["curve", *("one ticket", "times", "every level", "times") * len(MEASURES)],
        rows=rows,
        note="One ticket: its training and all that it stands on, the levels before it (a transplant's are deterministic). "
        "Every level: a ticket at each level; a chain that prunes has them all on its way, a transplant takes a Bayesian "
        f"training more for each. Times: over {panel.reference}. Means over seeds; trainings only, with the test pass after "
        "each epoch. Operations are as torch counts them.",
    )


def _last_level(records: pd.DataFrame, curves: list[str]) -> int | None:
    """The last level that all of the curves have; none if that is the dense one."""
    shared = set.intersection(*(set(records.loc[records["curve"] == curve, "level"]) for curve in curves))
    return int(max(shared)) if shared and max(shared) > 0 else None


def _costs(panel: Panel, curve: str, last: int, measure: str) -> tuple[float, float]:
    """Of one ticket at that level, and of one at every level to it."""
    own = panel.records[(panel.records["curve"] == curve) & (panel.records["level"] <= last)]
    one = own.loc[own["level"] == last, f"total_{measure}"].mean(skipna=False)
    if panel.arm(curve) in OWN_MASK:
        return float(one), float(one)
    # the chain behind the last level's mask is behind all the others' too
    before = own[own["level"] < last].groupby("level")[f"train_{measure}"].mean()
    return float(one), float(one + before.sum(skipna=False))
