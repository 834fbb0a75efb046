"""Graphs of stages, and the rows of a study's tables before their numbers are known: labels, and stages that give them.

What walks and names them needs keys, kinds, parents and labels alone, which the outline of a plan has too: no torch.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from .stages import Evaluate, Stage, Train


class Node(Protocol):
    """Stage of a graph."""

    @property
    def key(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def parents(self) -> tuple[Any, ...]:
        """Return the nodes that it depends on."""
        ...


class GraphRow(Protocol):
    """Row of a table of the study, a record or an analysis: the stages whose records give its numbers."""

    @property
    def labels(self) -> Mapping[str, Any]: ...
    @property
    def stage(self) -> Node: ...
    @property
    def read(self) -> tuple[Node, ...]: ...


class RecordRow(GraphRow, Protocol):
    """Row of the records."""

    @property
    def trained(self) -> Node:
        """Return the stage that trained the ticket."""
        ...


class AnalysisRows(GraphRow, Protocol):
    """Rows of the table of analyses that one stage gives."""

    @property
    def of(self) -> Sequence[Any]:
        """Return the compared tickets, each with `labels`."""
        ...


N = TypeVar("N", bound=Node)
N_co = TypeVar("N_co", bound=Node, covariant=True)


class Graph(Protocol[N_co]):
    """Graph of a study."""

    @property
    def name(self) -> str: ...
    @property
    def rows(self) -> Sequence[RecordRow]: ...
    @property
    def analyses(self) -> Sequence[AnalysisRows]: ...
    @property
    def wanted(self) -> Sequence[GraphRow]:
        """Return all rows; analyses come last, because their stages depend on the other rows' stages."""
        ...

    @property
    def stages(self) -> Sequence[N_co]:
        """Return every stage once, parents first."""
        ...


def ancestors(*stages: N, known: Callable[[str], bool] = lambda key: False) -> list[N]:
    """Return the stages and all that they depend on, each once, parents first; the first one is the dense start.

    known: tells by key which stages are left out, with the stages that only they depend on.
    """
    found: dict[str, N] = {}

    def visit(stage: N) -> None:
        if stage.key not in found and not known(stage.key):
            for parent in stage.parents:
                visit(parent)
            found[stage.key] = stage

    for stage in stages:
        visit(stage)
    return list(found.values())


def curve_of(row: GraphRow, several: Sequence[str]) -> str:
    """Return the curve's label with its variant and the columns `several`, which distinguish curves of the study."""
    return " · ".join(str(row.labels[name]) for name in ("curve", *several, "variant") if row.labels[name])


def several_of(graph: Graph[Node]) -> list[str]:
    """Return the columns, of model and data, in which the curves of the study differ."""
    return [column for column in ("model", "data") if len({row.labels[column] for row in graph.rows}) > 1]


@dataclass(frozen=True)
class Row:
    """A row of the records: one evaluated ticket."""

    labels: dict[str, Any]
    stage: "Evaluate"

    @property
    def trained(self) -> "Train":
        """Return the stage that trained the ticket."""
        (trained,) = self.stage.parents
        return cast("Train", trained)

    @property
    def read(self) -> "tuple[Stage, ...]":
        """Return the stages whose records give the row's numbers."""
        return self.trained, self.stage


@dataclass(frozen=True)
class AnalysisRow:
    """The rows of the table of analyses that one stage gives."""

    labels: dict[str, Any]
    """Labels of the first ticket of `of`, with `view` (the analysis's name) and `between`."""
    stage: "Stage"
    """Stage whose record has `rows`, each with the indices `a` and `b` of the tickets in `of` that it compares."""
    of: tuple[Row, ...]
    """The compared tickets, in the order of the stage's parents."""

    @property
    def read(self) -> "tuple[Stage, ...]":
        """Return the stages whose records give the rows' numbers."""
        return (self.stage,)


Analysis = Callable[[list[Row]], Iterable[AnalysisRow]]
"""Function from the rows of one model, one data set and one variant to the analysis's rows."""


def analysis_row(analysis: str, between: str, stage: "Stage", of: Iterable[Row]) -> AnalysisRow:
    """Return the AnalysisRow of these tickets."""
    rows = tuple(of)
    return AnalysisRow(rows[0].labels | {"view": analysis, "between": between}, stage, rows)
