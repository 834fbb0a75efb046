"""Rows of a study's tables before their numbers are known: their labels, and the stages that give the numbers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .stages import Evaluate, Stage, Train


@dataclass(frozen=True)
class Row:
    """A row of the records: one evaluated ticket."""

    labels: dict[str, Any]
    stage: Evaluate

    @property
    def trained(self) -> Train:
        """Return the stage that trained the ticket."""
        (trained,) = self.stage.parents
        assert isinstance(trained, Train)
        return trained

    @property
    def read(self) -> tuple[Stage, ...]:
        """Return the stages whose records give the row's numbers."""
        return self.trained, self.stage


@dataclass(frozen=True)
class AnalysisRow:
    """The rows of the table of analyses that one stage gives."""

    labels: dict[str, Any]
    """Labels of the first ticket of `of`, with `view` (the analysis's name) and `between`."""
    stage: Stage
    """Stage whose record has `rows`, each with the indices `a` and `b` of the tickets in `of` that it compares."""
    of: tuple[Row, ...]
    """The compared tickets, in the order of the stage's parents."""

    @property
    def read(self) -> tuple[Stage, ...]:
        """Return the stages whose records give the rows' numbers."""
        return (self.stage,)


Analysis = Callable[[list[Row]], Iterable[AnalysisRow]]
"""Function from the rows of one model, one data set and one variant to the analysis's rows."""


def analysis_row(analysis: str, between: str, stage: Stage, of: Iterable[Row]) -> AnalysisRow:
    """Return the AnalysisRow of these tickets."""
    rows = tuple(of)
    return AnalysisRow(rows[0].labels | {"view": analysis, "between": between}, stage, rows)
