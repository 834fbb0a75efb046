"""A study's records: one row for each evaluated ticket, as a Parquet table."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .plan import Plan, Row
from .stages import Stage, Train
from .store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

TIMING = ("train_seconds", "total_seconds")
"""Columns that differ between two runs of the same study."""
ENVIRONMENT = ("device", "torch", "threads")
"""Columns that tell where a row was made."""

COLUMNS = [
    "study",
    "stage",
    "key",
    "ticket",
    "arm",
    "curve",
    "variant",
    "model",
    "data",
    "method",
    "score",
    "sigma",
    "rewind",
    "seed",
    "level",
    "density",
    "density_all",
    "accuracy",
    "best_accuracy",
    "nll",
    "brier",
    "ece",
    "ece_null",
    "mace",
    "mace_null",
    "samples",
    "train_seconds",
    "train_flops",
    "total_seconds",
    "total_flops",
    "device",
    "torch",
    "threads",
    "repeats",
    "examples",
    "layer_density",
    "accuracy_sd",
    "rmse",
    "predictive_entropy",
    "mutual_information",
    "drift_mean",
    "drift_spread",
    "drift_rank",
]
"""The columns that every table has, first; NaN where the data or the method lacks them."""


def collect(plan: Plan, store: Store) -> "DataFrame":
    """The rows that are finished, in the plan's order: `COLUMNS`, then the calibration metrics with their nulls."""
    import pandas as pd

    rows = [_values(row, store) for row in plan.rows if store.done(row.stage.key)]
    table = pd.DataFrame(rows)
    if not len(table):
        return pd.DataFrame(columns=COLUMNS)
    for column in COLUMNS:
        if column not in table:
            table[column] = float("nan")
    return table[[*COLUMNS, *(c for c in table.columns if c not in COLUMNS)]]


def stage_times(plan: Plan, store: Store) -> "DataFrame":
    """A row for each finished stage: kind, seconds, and the labels of the first of the plan's rows that needs it."""
    import pandas as pd

    names = ("curve", "variant", "model", "data", "seed", "level")
    seen: set[str] = set()
    rows = []
    for row in plan.rows:
        for stage in _line(row.stage, seen):
            if store.done(stage.key):
                record = store.record(stage.key)
                # a training that was interrupted counts all its sittings, which the run's own seconds do not
                seconds = max(record["run"]["seconds"], record["record"].get("train_seconds", 0.0))
                rows.append({name: row.labels[name] for name in names} | {"kind": stage.kind, "seconds": seconds})
    return pd.DataFrame(rows, columns=[*names, "kind", "seconds"])


def _line(stage: Stage, seen: set[str]) -> list[Stage]:
    """The stage and its ancestors, apart from those seen already, which it adds to."""
    if stage.key in seen:
        return []
    seen.add(stage.key)
    return [stage, *(found for parent in stage.parents for found in _line(parent, seen))]


def write(table: "DataFrame", path: Path) -> None:
    """Writes aside and renames into place."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    table.to_parquet(aside, index=False)
    aside.replace(path)


def _values(row: Row, store: Store) -> dict[str, Any]:
    (trained,) = row.stage.parents
    measured, training = store.record(row.stage.key), store.record(trained.key)
    return {
        **row.labels,
        "stage": row.stage.kind,
        "key": row.stage.key,
        "ticket": trained.key,
        **measured["record"],
        "best_accuracy": training["record"]["best_accuracy"],
        **_costs(trained, store),
        "device": training["run"]["device"],
        "torch": training["run"]["torch"],
        "threads": training["run"]["threads"],
    }


def _costs(trained: Stage, store: Store) -> dict[str, float]:
    """Of the training itself, and in total: with all the trainings that it stands on, as pruning levels before it."""
    found = [store.record(s.key)["record"] for s in _line(trained, set()) if s.kind == Train.kind and store.done(s.key)]
    own = store.record(trained.key)["record"]
    return {
        "train_seconds": own["train_seconds"],
        "train_flops": own.get("train_flops", math.nan),
        "total_seconds": sum(record["train_seconds"] for record in found),
        "total_flops": sum(record.get("train_flops", math.nan) for record in found),
    }
