"""The claims as the page shows them: those that the study has data for, and what the others need."""

from dataclasses import dataclass

import pandas as pd

from tombola.claims import Row, judge
from tombola.claims.table import BESIDE_NOTE, NOTE, effect, named, parts, region, remark, row_keys, verdict_text
from tombola.report.quantities import MINUS


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
    """The section: empty where no claim has data."""

    judged: list[Judged]
    without: list[tuple[str, str, str, str]]  # name, sentence, net, what it needs
    notes: tuple[str, ...] = (NOTE, BESIDE_NOTE)


def claims_of(records: pd.DataFrame) -> Claims:
    """Every claim of arXiv 2602.18825 judged by the records."""
    rows = judge(records) if len(records) else []
    judged = [_judged(row) for row in rows if row.joint]
    without = [(named(row), row.claim.sentence, row.net, row.needs) for row in rows if not row.joint]
    return Claims(judged=judged, without=without)


def _judged(row: Row) -> Judged:
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
