"""Judgement of records: a row for each claim and net, with its verdict before and after Holm's correction."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tombola.errors import TombolaError
from tombola.metrics.columns import names

from .curves import Missing, Mixed
from .nets import BESIDE, Net, nets_of
from .verdict import ALPHA, CONTRADICTED, COST, NO_DATA, SUPPORTED, Claim, Joint, holm, outcome

if TYPE_CHECKING:
    import pandas as pd

_NEEDED = (
    *("key", "arm", "model", "data", "method", "score", "rewind", "seed", "level", "density", "accuracy"),
    *("parameters", "chain", "lr", "warmup_epochs", "settings", "changes"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A claim about a net. `joint` is None where the records lack data that the claim needs; then `needs` names them."""

    claim: Claim
    case: str
    net: str
    joint: Joint | None = None
    needs: str = ""
    mixed: bool = False
    """True where `needs` names rows of one curve, seed and level that differ."""
    beside: Joint | None = None
    """The outcomes in the column `beside_metric`: the best epoch's accuracy, or MACE as the paper's code."""
    two_sided: Joint | None = None
    """The outcomes of "matches", for a claim that says "not worse"."""
    chance_known: bool = True
    """False where the records lack the number of classes, so that nets at chance are judged like others."""
    p_supported: float = math.nan
    """The p value of the test that supports, adjusted by Holm over the rows that have one; rows about cost are apart."""
    p_contradicted: float = math.nan
    """The adjusted p value of the test that contradicts."""

    @property
    def beside_metric(self) -> str:
        return BESIDE.get(self.claim.metric, "")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the records that the row depends on, each once."""
        outcomes = self.joint.outcomes if self.joint else []
        return tuple(dict.fromkeys(key for each in outcomes for key in each.part.contrast.keys))

    @property
    def verdict(self) -> str:
        """The verdict of the row by itself."""
        return self.joint.verdict if self.joint else NO_DATA

    @property
    def corrected(self) -> str:
        """The verdict by the adjusted p values, at a level of 5%; counted numbers need no test, and so no adjustment."""
        if self.joint is None or self.joint.counted:
            return self.verdict
        if self.p_contradicted < ALPHA:
            return CONTRADICTED
        return SUPPORTED if self.p_supported < ALPHA else self.joint.undecided


def judge(records: pd.DataFrame, claims: Mapping[str, Claim]) -> list[Row]:
    """Return rows in the claims' order, at least one for each; `records` may be of several studies.

    Of a family of nets that has data for a claim, the nets that lack it have no row. Raises TombolaError for records
    without the columns that are needed.
    """
    absent = [column for column in _NEEDED if column not in records]
    if absent:
        raise TombolaError(
            f"the records have no column {absent[0]!r}: an earlier version wrote them; 'tombola report DIR' writes them anew"
        )
    found: dict[str, list[Row]] = {}
    for varied in {claim.varied for claim in claims.values()}:
        found |= _judged(records, {name: claim for name, claim in claims.items() if claim.varied == varied}, varied)
    return adjusted([row for name in claims for row in found[name]])


def columns_of(claims: Mapping[str, Claim]) -> set[str]:
    """Return the columns of the records that `judge` reads for these claims, where there are such."""
    metrics = {column for claim in claims.values() for column in (claim.metric, *claim.reads)}
    costs = names("cost", "timing") if COST in metrics else ()
    return {*_NEEDED, "classes", "examples", *metrics, *(BESIDE[metric] for metric in metrics & BESIDE.keys()), *costs}


def _judged(records: pd.DataFrame, claims: Mapping[str, Claim], varied: Sequence[str]) -> dict[str, list[Row]]:
    """Return the rows of claims that vary the same settings; the nets, which copy most of the records, are gone after it."""
    nets = nets_of(records, varied)
    return {name: _rows(claim, nets) for name, claim in claims.items()}


def _rows(claim: Claim, nets: Sequence[Net]) -> list[Row]:
    about = [replace(net, metric=claim.metric) for net in nets if claim.about(net.model)]
    if not about:
        kinds = " or ".join(f"{start} nets" for start in claim.nets) or "classification nets"
        return [Row(claim=claim, case=case, net="", needs=_sentence(claim, kinds)) for case in claim.cases]
    rows = []
    for case in claim.cases:
        found = [(net, _row(claim, case, net)) for net in about]
        with_data = {(net.family, net.data) for net, row in found if row.joint}
        tested: set[tuple[str, ...]] = set()
        for net, row in found:
            family, keys = (net.family, net.data), row.keys
            if keys and keys in tested:
                continue  # nets by several methods share their deterministic tickets: the same test, counted once
            tested.add(keys)
            if row.joint or row.mixed or family not in with_data:
                rows.append(row)
                with_data.add(family)  # of several nets without data, the first speaks for the family
    return rows


def _row(claim: Claim, case: str, net: Net) -> Row:
    row = Row(claim=claim, case=case, net=net.label, chance_known=net.rows.chance_known)
    try:
        row = replace(row, joint=_joint(claim, case, net))
    except Mixed as mixed:
        return replace(row, needs=str(mixed), mixed=True)
    except Missing as missing:
        return replace(row, net=net.model, needs=_sentence(claim, str(missing)))
    if row.beside_metric:
        with contextlib.suppress(Missing):  # the column is younger than the records
            row = replace(row, beside=_joint(claim, case, replace(net, metric=row.beside_metric)))
    assert row.joint is not None
    return replace(row, two_sided=row.joint.two_sided())


def _joint(claim: Claim, case: str, net: Net) -> Joint:
    reason = "the dense networks are at chance" if net.rows.untrained and not claim.costs else ""
    return Joint([outcome(part, reason) for part in claim.function(net, *claim.cases[case])])


def _sentence(claim: Claim, missing: str) -> str:
    return f"needs {missing}: tombola run {claim.study}"


def adjusted(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with p values adjusted by Holm; tests that support and that contradict, and rows about cost, apart."""
    adjusted: dict[tuple[bool, str], Iterator[float]] = {}
    for costs in (False, True):
        joints = [row.joint for row in rows if row.claim.costs == costs]
        for name in ("p_inside", "p_outside"):
            adjusted[costs, name] = iter(holm([getattr(joint, name, math.nan) for joint in joints]))
    return [
        replace(
            row,
            p_supported=next(adjusted[row.claim.costs, "p_inside"]),
            p_contradicted=next(adjusted[row.claim.costs, "p_outside"]),
        )
        for row in rows
    ]
