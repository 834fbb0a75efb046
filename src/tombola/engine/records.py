"""Tables of a study: its records, one row for each evaluated ticket, its analyses and its stages' times."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.errors import TombolaError
from tombola.files import written_aside
from tombola.metrics.columns import ANALYSES, RECORDS
from tombola.study.graph import AnalysisRows, Graph, GraphRow, Node, RecordRow, ancestors

from .outline import TRAIN
from .store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

_LABELS = ("curve", "variant", "model", "data", "seed", "level")


def collect(plan: Graph[Node], store: Store) -> "DataFrame":
    """Return the finished rows as a table, in the plan's order."""
    record = cache(store.record)  # a row reads the records of all trainings that it depends on, as other rows do
    return table_of([row_of(row, store, record) for row in plan.rows if all(store.done(stage.key) for stage in row.read)])


def table_of(rows: Sequence[Mapping[str, Any]]) -> "DataFrame":
    """Return rows of `row_of` as a table: first the columns that are not optional, then others in the rows' order."""
    import pandas as pd

    first = [column.name for column in RECORDS.values() if not column.optional]
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*first, *(name for row in rows for name in row)])))


def collect_analyses(plan: Graph[Node], store: Store) -> "DataFrame":
    """Return the numbers of the finished analyses, one a row, in the plan's order, with the columns `ANALYSES`."""
    import pandas as pd

    done = [analysis for analysis in plan.analyses if store.done(analysis.stage.key)]
    rows = [row for analysis in done for row in _numbers(analysis, store)]
    return pd.DataFrame(rows, columns=list(ANALYSES)).astype(dict.fromkeys(("density", "x", "value", "chance"), float))


def stage_times(plan: Graph[Node], store: Store) -> "DataFrame":
    """Return a row for each finished stage: kind, seconds, and the labels of the plan's first row that needs it."""
    import pandas as pd

    rows = []
    for stage, labels in _labelled(plan.wanted, store):
        record = store.record(stage.key)
        # an interrupted training was run several times: the run's seconds are those of the last time alone
        seconds = max(record["run"]["seconds"], record["record"].get("train_seconds", 0.0))
        rows.append(labels | {"kind": stage.kind, "seconds": seconds})
    return pd.DataFrame(rows, columns=[*_LABELS, "kind", "seconds"])


def histories(plan: Graph[Node], store: Store) -> "DataFrame":
    """Return a row for each epoch of the finished trainings: labels as of `stage_times`, and the history's columns."""
    import pandas as pd

    rows = []
    for stage, labels in _labelled(plan.rows, store):
        if stage.kind == TRAIN:
            rows += [labels | epoch for epoch in store.record(stage.key).get("history", [])]
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*_LABELS, *(name for row in rows for name in row)])))


def _labelled(rows: Iterable[GraphRow], store: Store) -> Iterator[tuple[Node, dict[str, Any]]]:
    """Yield each finished stage once, with the labels of the first row that needs it."""
    seen: set[str] = set()
    for row in rows:
        for stage in ancestors(row.stage, known=seen.__contains__):
            seen.add(stage.key)
            if store.done(stage.key):
                yield stage, {name: row.labels[name] for name in _LABELS}


def write(table: "DataFrame", path: Path) -> None:
    """Write the table as Parquet."""
    with written_aside(path) as aside:
        table.to_parquet(aside, index=False)


def _numbers(analysis: AnalysisRows, store: Store) -> list[dict[str, Any]]:
    shared = {name: analysis.labels[name] for name in ("study", "view", "between", "model", "data", "variant")}
    found = []
    for row in store.record(analysis.stage.key)["record"]["rows"]:
        if max(row["a"], row["b"]) >= len(analysis.of):
            raise TombolaError(
                f"stage {analysis.stage.key} compares ticket {max(row['a'], row['b'])} of {len(analysis.of)}, so its record "
                f"is damaged; remove its folder in {store.place} and run the study again"
            )
        ends = {"a": analysis.of[row["a"]].labels, "b": analysis.of[row["b"]].labels}
        of = {f"{name}_{end}": labels[name] for end, labels in ends.items() for name in ("curve", "seed", "level")}
        found.append({**shared, "key": analysis.stage.key, **of, **row})
    return found


def row_of(row: RecordRow, store: Store, record: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Return the labels and numbers of a finished row. record: the store's, which may keep what it has read."""
    measured, training = record(row.stage.key), record(row.trained.key)
    return {
        **row.labels,
        "stage": row.stage.kind,
        "key": row.stage.key,
        "ticket": row.trained.key,
        **measured["record"],
        "best_accuracy": training["record"]["best_accuracy"],
        **_costs(row.trained, store, record),
        "device": training["run"]["device"],
        "torch": training["run"]["torch"],
        "threads": training["run"]["threads"],
    }


def _costs(trained: Node, store: Store, record: Callable[[str], dict[str, Any]]) -> dict[str, float]:
    """Return the costs of the training itself, and in total with all trainings that it depends on, at levels before it.

    Trainings that another study has run count as well. The total is NaN if one of them is no longer in the store.
    """
    trainings = [stage.key for stage in ancestors(trained) if stage.kind == TRAIN]
    found = [record(key)["record"] if store.done(key) else {} for key in trainings]
    own = record(trained.key)["record"]
    return {
        "train_seconds": own["train_seconds"],
        "train_flops": own.get("train_flops", math.nan),
        "train_flops_sparse": own.get("train_flops_sparse", math.nan),
        "total_seconds": sum(one.get("train_seconds", math.nan) for one in found),
        "total_flops": sum(one.get("train_flops", math.nan) for one in found),
    }
