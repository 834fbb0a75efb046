"""The tables of the page, as texts."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from tombola.claims import Row, judge
from tombola.claims.paper import CLAIMS, PAPER
from tombola.claims.table import BESIDE_NOTE, NOTE, effect, headline, named, parts, region, remark, verdict_text
from tombola.metrics.column import MINUS, NONE, Column, left, listed

from .panels import CONTROLS, MAIN, OWN_MASK, WHERE_SET, Panel, values, written
from .quantities import duration
from .statistics import Gap, by_seed, common_level, density_at, gaps, level_gap, paired_gap
from .text import interval, verdict


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of texts; the first column names the row. `groups` is an upper head: texts, and the columns each spans.

    Where a screen has no room for all columns, each row becomes a list of heads and values.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""
    groups: tuple[tuple[str, int], ...] = ()

    @property
    def labels(self) -> list[str]:
        """Return the whole head of each column: that of its group, and its own."""
        above = [text for text, span in self.groups for _ in range(span)] or [""] * len(self.head)
        return [f"{group}, {own}" if group else own for group, own in zip(above, self.head, strict=True)]


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
    """Return the reference minus its dense network and each other curve, at the last level they share or at every one."""
    quantity, records, rows = panel.main, panel.records, []
    last = common_level(records, panel.reference, panel.reference, quantity.name)
    if last and not every_level:
        rows.append(_gap("its dense network", panel, last, level_gap(records, panel.reference, last, 0, quantity.name)))
    for curve in panel.curves:
        if curve != panel.reference:
            found = gaps(records, panel.reference, curve, quantity.name, every_level=every_level)
            rows += [_gap(curve, panel, level, gap) for level, gap in found]
    which = "at every level" if every_level else "at the last level that both have"
    better = "" if quantity.higher_is_better else "; lower is better"
    return Table(
        title=f"{panel.reference} against the others: gap in {quantity.label} ({quantity.gap_unit}{better}), {which}",
        head=["against", "left", "gap", "95% interval", "seeds", f"{panel.reference} is"],
        rows=[row for row in rows if row[-2] != "0"],
    )


def _gap(other: str, panel: Panel, level: int, gap: Gap) -> list[str]:
    numbers = [panel.main.signed(gap.mean), interval(gap, panel.main), str(gap.n)]
    return [other, left(density_at(panel.records, level)), *numbers, verdict(gap)]


def settings_table(study: Mapping[str, Any], records: pd.DataFrame) -> Table:
    """Return the main settings."""
    found = {label: (path, values(study, *path)) for label, path in MAIN.items()}
    rows = [[label, written(own)] for label, (path, own) in found.items() if path not in WHERE_SET or any(own)]
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


def numbers(panels: list[Panel]) -> list[tuple[str, str]]:
    """Return at most three numbers with their meaning: of one panel its last level, of several the gaps to dense."""
    if len(panels) != 1:
        one_net = len({panel.net for panel in panels}) == 1
        return [_against_dense(p, f"{p.setting if one_net else p.title}: ") for p in panels[:3] if _last(p)]
    (panel,) = panels
    quantity, last = panel.main, _last(panel)
    if last is None:
        return []
    value = by_seed(panel.records, panel.reference, last, quantity.name).mean()
    where = f"with {left(density_at(panel.records, last))} of the weights" if last else "dense"
    found = [(quantity.show(value), f"{quantity.label} of {panel.reference} {where}")]
    if not last:
        return found
    found.append(_against_dense(panel))
    control = _control(panel)
    level = common_level(panel.records, panel.reference, control, quantity.name)
    if control != panel.reference and level:
        gap = paired_gap(panel.records, panel.reference, control, level, quantity.name)
        found.append(_with_interval(panel, gap, f"against {control}"))
    return found


def _control(panel: Panel) -> str:
    """Return the first control of the reference's score and method, failing that the first of any, or the last curve."""
    firsts = panel.records.drop_duplicates("curve").set_index("curve")
    controls = [curve for curve in panel.curves if firsts.loc[curve, "arm"] in CONTROLS]
    alike = (firsts[["score", "method"]] == firsts.loc[panel.reference, ["score", "method"]]).all(axis=1)
    return next(iter([*(curve for curve in controls if alike[curve]), *controls, panel.curves[-1]]))


def _last(panel: Panel) -> int | None:
    """Return the reference's last level, one of two seeds if there is any."""
    return common_level(panel.records, panel.reference, panel.reference, panel.main.name)


def _against_dense(panel: Panel, where: str = "") -> tuple[str, str]:
    last = _last(panel)
    assert last is not None
    gap = level_gap(panel.records, panel.reference, last, 0, panel.main.name)
    return _with_interval(panel, gap, f"{where}against its dense network")


def _with_interval(panel: Panel, gap: Gap, words: str) -> tuple[str, str]:
    unit = "points" if panel.main.suffix == "%" else panel.main.gap_unit
    within = "" if math.isnan(gap.low) else f", 95% interval {interval(gap, panel.main)}"
    return f"{panel.main.signed(gap.mean)} {unit}".rstrip(), f"{words}{within}"


def _short(value: float) -> str:
    """Return three digits with the prefix of a unit, such as "36.3 G"; a dash for NaN."""
    if math.isnan(value):
        return NONE
    power = min(6, max(0, math.floor(math.log10(max(value, 1)) / 3)))
    return f"{value / 1000**power:.3g} {' kMGTPE'[power]}".strip()


SHOWN = (*OWN_MASK, "transplant")
MEASURES: dict[str, Callable[[float], str]] = {
    "seconds": duration,
    "flops": _short,
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
            pairs = zip(found[curve, measure], found[panel.reference, measure], strict=True)
            row += [
                f"{write(own)} ({own / reference:.2f})" if own / reference > 0 else write(own) for own, reference in pairs
            ]
        rows.append(row)
    return Table(
        title=f"What tickets cost, down to {left(density_at(panel.records, last))} left",
        head=["curve", "time of one ticket", "of every level", "operations of one ticket", "of every level"],
        rows=rows,
        note=f"In brackets: over {panel.reference}. One ticket: its training and all before it. Every level: a ticket at "
        "each; a chain that prunes has them on its way, a transplant takes a Bayesian training more for each. Means over "
        "seeds, trainings only; operations as torch counts them.",
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
    verdict: str  # after Holm's correction, with hyphens, as a class of the style sheet
    shown: str  # the same with its sign
    alone: str  # without the correction, where that differs
    effect: str
    contrast: str
    says: str
    n: int
    beside: str


@dataclass(frozen=True)
class ClaimRows:
    """A claim, and its verdicts net by net."""

    name: str
    sentence: str
    rows: list[Judged]


@dataclass(frozen=True, kw_only=True)
class Claims:
    """The section of claims; empty where no claim has data."""

    groups: list[ClaimRows]
    without: list[tuple[str, str, str, str]]  # name, sentence, net, what it needs
    counts: str = ""
    """The numbers of verdicts, in a sentence."""
    notes: tuple[str, ...] = (NOTE, BESIDE_NOTE)


def claims_of(records: pd.DataFrame, study: Mapping[str, Any]) -> Claims:
    """Judge the claims of arXiv 2602.18825 by the records of the paper's studies; none for other studies."""
    rows = judge(records, CLAIMS) if len(records) and str(study.get("name", "")).startswith(PAPER) else []
    shown = [row for row in rows if row.joint]
    groups = [
        ClaimRows(name, sentence, [judged(row) for row in own])
        for (name, sentence), own in groupby(shown, key=lambda row: (named(row), row.claim.sentence))
    ]
    without = [(named(row), row.claim.sentence, row.net, row.needs) for row in rows if not row.joint]
    return Claims(groups=groups, without=without, counts=headline(rows))


def judged(row: Row) -> Judged:
    """Return the texts of a row that has data."""
    assert row.joint is not None
    found = row.joint.deciding
    words = [found.part.contrast.words, *filter(None, (parts(row), remark(row))), f"{len(row.keys)} rows"]
    return Judged(
        name=named(row),
        sentence=row.claim.sentence,
        net=row.net,
        verdict=row.corrected.replace(" ", "-"),
        shown=verdict_text(row.corrected),
        alone="" if row.corrected == row.verdict else verdict_text(row.verdict),
        effect=effect(found).replace("-", MINUS),
        contrast="; ".join(words),
        says=region(found).replace("-", MINUS),
        n=found.n,
        beside=verdict_text(row.beside.verdict) if row.beside else "",
    )
