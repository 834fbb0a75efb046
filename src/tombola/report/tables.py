"""The tables of the page, as texts."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tombola.claims import Row, judge
from tombola.claims.nets import FAMILIES, family_of
from tombola.claims.paper import CLAIMS
from tombola.claims.table import BESIDE_NOTE, NOTE, effect, named, parts, region, remark, row_keys, verdict_text
from tombola.metrics.column import MINUS, NONE, Column

from .panels import MAIN, OWN_MASK, Panel, values, written
from .quantities import duration, left, listed, number
from .statistics import by_seed, density_at, gaps, levels
from .text import interval


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of texts; the first column names the row. `groups` is an upper head: texts, and the columns each spans."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""
    groups: tuple[tuple[str, int], ...] = ()


def main_table(panel: Panel) -> Table:
    """Return accuracy by weights left with the best epoch's beside it, or RMSE for regression."""
    quantity = panel.main
    found = panel.summary(quantity.name).set_index(["curve", "level"])
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
    unit = "in percent" if quantity.suffix == "%" else f"in {quantity.gap_unit}"
    title = f"Test {quantity.label}, {unit}, by weights left"
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
    """Return the reference minus each other curve, at the last level that they share or at every one."""
    quantity, rows = panel.main, []
    for curve in panel.curves:
        if curve != panel.reference:
            for level, gap in gaps(panel.records, panel.reference, curve, quantity.name, every_level=every_level):
                where = [str(level), left(density_at(panel.records, level))]
                rows.append([curve, *where, quantity.signed(gap.mean), interval(gap, quantity), str(gap.n)])
    which = "at every level" if every_level else "at the sparsest level that both have"
    return Table(
        title=f"Gap of {panel.reference} to each other curve in {quantity.label} ({quantity.gap_unit}), {which}",
        head=["curve", "level", "left", "gap", "95% interval", "seeds"],
        rows=rows,
        note=f"{panel.reference} minus the curve, paired over seeds.",
    )


def drift_table(panel: Panel) -> Table:
    """Return the change of log sigma at the last level of every curve that has sigmas."""
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
    """Return the main settings."""
    rows = [[label, written(values(study, *path))] for label, path in MAIN.items()]
    scores = [] if records.empty else [str(score) for score in records["score"].dropna().unique()]
    rows.insert(list(MAIN).index("fraction pruned per level"), ["score", listed(scores)])
    return Table(title="Main settings", head=["setting", "value"], rows=rows)


def environment_table(records: pd.DataFrame) -> Table:
    """Return device, torch version and number of test examples of the trainings."""
    columns = ["device", "torch", "examples"]
    counts = records[columns].fillna("?").value_counts(sort=False).reset_index()
    rows = [[str(value) for value in row] for row in counts.itertuples(index=False)]
    return Table(title="Environment", head=["device", "torch", "test examples", "tickets"], rows=rows)


def _spread(point: pd.Series | None, quantity: Column, seeds: int) -> str:
    if point is None:
        return NONE
    fewer = f" (n={int(point['n'])})" if point["n"] < seeds else ""
    return f"{quantity.spread(point['mean'], point['sd'])}{fewer}"


SHOWN = (*OWN_MASK, "transplant")
MEASURES: dict[str, Callable[[float], str]] = {
    "seconds": duration,
    "flops": lambda value: NONE if math.isnan(value) else f"{value:.3g}",
}
"""End of the costs' column names -> function that writes a value."""


def cost_table(panel: Panel) -> Table:
    """Return training time and operations of each curve's tickets, means over seeds, beside the reference's.

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
        for measure, write in MEASURES.items():
            for own, reference in zip(found[curve, measure], found[panel.reference, measure], strict=True):
                row += [write(own), f"{own / reference:.2f}" if own / reference > 0 else NONE]
        rows.append(row)
    return Table(
        title=f"What tickets cost, down to {left(density_at(panel.records, last))} left",
        groups=(("", 1), ("training time", 4), ("operations", 4)),
        head=["curve", *("one ticket", "times", "every level", "times") * len(MEASURES)],
        rows=rows,
        note="One ticket: its training and all trainings that it depends on, the levels before it (a transplant's are "
        "deterministic). Every level: a ticket at each level; a chain that prunes has them all on its way, a transplant "
        f"takes a Bayesian training more for each. Times: over {panel.reference}. Means over seeds; trainings only, with "
        "the test pass after each epoch. Operations are as torch counts them.",
    )


def _last_level(records: pd.DataFrame, curves: list[str]) -> int | None:
    """Return the last level that all of the curves have; None if it is the dense one."""
    shared = set.intersection(*(set(records.loc[records["curve"] == curve, "level"]) for curve in curves))
    return int(max(shared)) if shared and max(shared) > 0 else None


def _costs(panel: Panel, curve: str, last: int, measure: str) -> tuple[float, float]:
    """Return the cost of one ticket at the last level, and of a ticket at every level up to it."""
    own = panel.records[(panel.records["curve"] == curve) & (panel.records["level"] <= last)]
    one = own.loc[own["level"] == last, f"total_{measure}"].mean(skipna=False)
    if panel.arm(curve) in OWN_MASK:
        return float(one), float(one)
    # the chain behind the last level's mask is behind all the others' too
    before = own[own["level"] < last].groupby("level")[f"train_{measure}"].mean()
    return float(one), float(one + before.sum(skipna=False))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim with its verdict, as texts."""

    name: str
    sentence: str
    net: str
    verdict: str  # supported, contradicted or inconclusive
    shown: str  # the same with its sign
    corrected: str
    effect: str
    contrast: str
    says: str
    n: int
    beside: str


@dataclass(frozen=True, kw_only=True)
class Claims:
    """The section of claims; empty where no claim has data."""

    judged: list[Judged]
    without: list[tuple[str, str, str, str]]  # name, sentence, net, what it needs
    notes: tuple[str, ...] = (NOTE, BESIDE_NOTE)


def claims_of(records: pd.DataFrame) -> Claims:
    """Judge the claims of arXiv 2602.18825 by the records of its nets; none for records of other nets alone."""
    rows = judge(records, CLAIMS) if len(records) and records["model"].map(family_of).isin(FAMILIES).any() else []
    without = [(named(row), row.claim.sentence, row.net, row.needs) for row in rows if not row.joint]
    return Claims(judged=[judged(row) for row in rows if row.joint], without=without)


def judged(row: Row) -> Judged:
    """Return the texts of a row that has data."""
    assert row.joint is not None
    found = row.joint.deciding
    words = [found.part.contrast.words, *filter(None, (parts(row), remark(row))), f"{len(row_keys(row))} rows"]
    return Judged(
        name=named(row),
        sentence=row.claim.sentence,
        net=row.net,
        verdict=row.verdict,
        shown=verdict_text(row.verdict),
        corrected=verdict_text(row.corrected),
        effect=effect(found).replace("-", MINUS),
        contrast="; ".join(words),
        says=region(found).replace("-", MINUS),
        n=found.n,
        beside=verdict_text(row.beside.verdict) if row.beside else "",
    )
