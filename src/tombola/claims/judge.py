"""Judgement of records: a row for each claim and net, with its verdict before and after Holm's correction."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tombola.errors import TombolaError

from .curves import Missing
from .nets import BESIDE, Net, nets_of
from .verdict import ALPHA, CONTRADICTED, INCONCLUSIVE, NO_DATA, SUPPORTED, Claim, Joint, holm, outcome

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
    beside: Joint | None = None
    """The outcomes in the column `beside_metric`: the best epoch's accuracy, or MACE as the paper's code."""
    p_supported: float = math.nan
    """The p value of the test that supports, adjusted by Holm over all rows that have one."""
    p_contradicted: float = math.nan
    """The adjusted p value of the test that contradicts."""

    @property
    def beside_metric(self) -> str:
        return BESIDE.get(self.claim.metric, "")

    @property
    def verdict(self) -> str:
        """One of supported, contradicted, inconclusive and no data."""
        return self.joint.verdict if self.joint else NO_DATA

    @property
    def corrected(self) -> str:
        """The verdict by the adjusted p values, at a level of 5%."""
        if self.joint is None:
            return NO_DATA
        if self.p_contradicted < ALPHA:
            return CONTRADICTED
        return SUPPORTED if self.p_supported < ALPHA else INCONCLUSIVE


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
    records = records.replace([math.inf, -math.inf], math.nan)
    nets = {varied: nets_of(records, varied) for varied in {claim.varied for claim in claims.values()}}
    return _corrected([row for claim in claims.values() for row in _rows(claim, nets[claim.varied])])


def _rows(claim: Claim, nets: Sequence[Net]) -> list[Row]:
    about = [replace(net, metric=claim.metric) for net in nets if claim.about(net.model)]
    if not about:
        kinds = " or ".join(f"{start} nets" for start in claim.nets) or "classification nets"
        return [Row(claim=claim, case=case, net="", needs=_sentence(claim, kinds)) for case in claim.cases]
    rows = []
    for case in claim.cases:
        found = [(net, _row(claim, case, net)) for net in about]
        with_data = {(net.family, net.data) for net, row in found if row.joint}
        for net, row in found:
            family = (net.family, net.data)
            if row.joint or family not in with_data:
                rows.append(row)
                with_data.add(family)  # of several nets without data, the first speaks for the family
    return rows


def _row(claim: Claim, case: str, net: Net) -> Row:
    row = Row(claim=claim, case=case, net=net.label)
    try:
        row = replace(row, joint=_joint(claim, case, net))
    except Missing as missing:
        return replace(row, net=net.model, needs=_sentence(claim, str(missing)))
    if row.beside_metric:
        with contextlib.suppress(Missing):  # the column is younger than the records
            row = replace(row, beside=_joint(claim, case, replace(net, metric=row.beside_metric)))
    return row


def _joint(claim: Claim, case: str, net: Net) -> Joint:
    return Joint([outcome(part) for part in claim.function(net, *claim.cases[case])])


def _sentence(claim: Claim, missing: str) -> str:
    return f"needs {missing}: tombola run {claim.study}"


def _corrected(rows: list[Row]) -> list[Row]:
    """Return the rows with p values adjusted by Holm, separately for the tests that support and that contradict."""
    supported = holm([row.joint.p_inside if row.joint else math.nan for row in rows])
    contradicted = holm([row.joint.p_outside if row.joint else math.nan for row in rows])
    return [replace(row, p_supported=a, p_contradicted=b) for row, a, b in zip(rows, supported, contradicted, strict=True)]
