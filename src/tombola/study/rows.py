"""Rows of a study's tables to be: what they are called, and the stage that gives their numbers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .stages import Evaluate, Stage


@dataclass(frozen=True)
class Row:
    """One row of the records: one evaluated ticket."""

    labels: dict[str, Any]
    stage: Evaluate


@dataclass(frozen=True)
class AnalysisRow:
    """What an analysis's stage finds out, several rows of the table of analyses."""

    labels: dict[str, Any]
    """Of the first ticket that is looked at, with `view` and `between`."""
    stage: Stage
    """Its record has `rows`, each with the numbers `a` and `b` of the tickets in `of` that it compares."""
    of: tuple[Row, ...]
    """The tickets that are compared, in the stage's order."""


Analysis = Callable[[list[Row]], Iterable[AnalysisRow]]
"""From the rows of one model, one data set and one variant to what is computed of them."""


def analysis_row(analysis: str, between: str, stage: Stage, of: Iterable[Row]) -> AnalysisRow:
    """The AnalysisRow of these tickets."""
    rows = tuple(of)
    return AnalysisRow(rows[0].labels | {"view": analysis, "between": between}, stage, rows)
