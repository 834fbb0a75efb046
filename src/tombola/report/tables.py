"""The tables of the page, as texts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tombola.report.panels import Panel
from tombola.report.quantities import NONE, Quantity, left, listed, number
from tombola.report.settings import MAIN, values, written
from tombola.report.statistics import Gap, by_seed, common_level, density_at, levels, paired_gap, summary
from tombola.report.words import interval


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of texts; the first column names the row. `groups` is an upper head: texts, and the columns each spans."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""
    groups: tuple[tuple[str, int], ...] = ()


def main_table(panel: Panel) -> Table:
    """Accuracy by weights left with the best epoch's beside it, or RMSE for regression."""
    quantity = panel.main
    found = summary(panel.records, quantity.column).set_index(["curve", "level"])
    best = panel.records.groupby(["curve", "level"])["best_accuracy"].mean()
    seeds = int(found["n"].max()) if len(found) else 0
    rows = []
    for level in sorted(panel.records["level"].unique()):
        row = [left(density_at(panel.records, level))]
        for curve in panel.curves:
            point = found.loc[(curve, level)] if (curve, level) in found.index else None
            row.append(_spread(point, quantity, seeds))
            if quantity.higher_is_better:
                row.append(quantity.spread(best.get((curve, level), math.nan), math.nan))
        rows.append(row)
    spread = "Mean ± standard deviation over seeds" if seeds > 1 else "One seed: no spread shown"
    unit = "in percent" if quantity.unit == "%" else f"in {quantity.gap_unit}"
    title = f"Test {quantity.name}, {unit}, by weights left"
    if not quantity.higher_is_better:
        return Table(title=title, head=["left", *panel.curves], rows=rows, note=f"{spread}.")
    return Table(
        title=title,
        groups=(("", 1), *((curve, 2) for curve in panel.curves)),
        head=["left", *("final", "best*") * len(panel.curves)],
        rows=rows,
        note=f"{spread}. *Optimistic: the best epoch is selected by test data; it is estimated in one pass with the "
        "posterior mean weights. The final column is the result.",
    )


def gap_table(panel: Panel, *, every_level: bool) -> Table:
    """The reference minus each other curve, at the last level they share or at every one."""
    quantity, rows = panel.main, []
    for curve in panel.curves:
        if curve == panel.reference:
            continue
        last = common_level(panel.records, panel.reference, curve, quantity.column)
        shown = levels(panel.records, curve, quantity.column) if every_level else [] if last is None else [last]
        for level in shown:
            gap = paired_gap(panel.records, panel.reference, curve, level, quantity.column)
            if gap.n:
                rows.append(_gap_row(panel, curve, level, gap))
    which = "at every level" if every_level else "at the sparsest level that both have"
    return Table(
        title=f"Gap of {panel.reference} to each other curve in {quantity.name} ({quantity.gap_unit}), {which}",
        head=["curve", "level", "left", "gap", "95% interval", "seeds"],
        rows=rows,
        note=f"{panel.reference} minus the curve, paired over seeds.",
    )


def drift_table(panel: Panel) -> Table:
    """The movement of log sigma at the last level of every curve that has sigmas."""
    rows = []
    for curve in panel.curves:
        reached = levels(panel.records, curve, "drift_mean")
        if not reached:
            continue
        last = reached[-1]
        drifts = [by_seed(panel.records, curve, last, f"drift_{name}").mean() for name in ("mean", "spread", "rank")]
        rows.append([curve, left(density_at(panel.records, last)), *map(number, drifts)])
    return Table(
        title="Sigma drift: the change of log sigma from its initialisation, at each curve's last level",
        head=["curve", "left", "mean", "spread", "rank correlation"],
        rows=rows,
        note="Means over seeds, in nats. A rank correlation of initial and final sigma near 1 means that sigma-based "
        "scores rank the initial jitter.",
    )


def settings_table(study: Mapping[str, Any], records: pd.DataFrame) -> Table:
    """The main settings."""
    rows = [[label, written(values(study, *path))] for label, path in MAIN.items()]
    scores = [] if records.empty else [str(score) for score in records["score"].dropna().unique()]
    rows.insert(list(MAIN).index("fraction pruned per level"), ["score", listed(scores)])
    return Table(title="Main settings", head=["setting", "value"], rows=rows)


def environment_table(records: pd.DataFrame) -> Table:
    """Where the trainings ran."""
    columns = ["device", "torch", "examples"]
    counts = records[columns].fillna("?").value_counts(sort=False).reset_index()
    rows = [[str(value) for value in row] for row in counts.itertuples(index=False)]
    return Table(title="Environment", head=["device", "torch", "test examples", "tickets"], rows=rows)


def _spread(point: pd.Series | None, quantity: Quantity, seeds: int) -> str:
    if point is None:
        return NONE
    fewer = f" (n={int(point['n'])})" if point["n"] < seeds else ""
    return f"{quantity.spread(point['mean'], point['sd'])}{fewer}"


def _gap_row(panel: Panel, curve: str, level: int, gap: Gap) -> list[str]:
    mean = panel.main.signed(gap.mean)
    return [
        curve,
        str(level),
        left(density_at(panel.records, level)),
        mean,
        interval(gap, panel.main),
        str(gap.n),
    ]
