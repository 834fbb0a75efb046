"""The rows of the table: arms of the records by method and mask, and their measures over seeds."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from scipy.special import stdtrit

from tombola.claims.verdict import ALPHA
from tombola.metrics.column import MINUS, NONE

PLAN = 3
"""Seeds of the study."""
LAST_LAYER = "field_last_layer"
SAID = {"vi": "vi", "map": "deterministic", "mc_dropout": "MC dropout", "laplace_full": "Laplace"}
WAYS = {"set": "SET", "rigl": "RigL", "ssvi": "SSVI", "gradual": "gradual"}
ONCE = {"snip": "SNIP", "synflow": "SynFlow", "grasp": "GraSP", "random": "random"}
MASKS = {
    "ticket": "pruned",
    "deterministic": "pruned",
    "transplant": "pruned, of deterministic",
    "shuffle_layerwise": "shuffled",
    "transplant_shuffle": "shuffled, of deterministic",
    "reinit": "pruned, re-drawn weights",
}
"""Arm -> its mask below level 0."""
OUTLIERS = "^auroc_(noise|textures|digits)_{}$"


@dataclass(frozen=True)
class Measure:
    """A column of the table: its head, its value in a record, the factor and the decimals that it is shown with."""

    name: str
    value: Callable[[pd.DataFrame], pd.Series]
    scale: float = 1.0
    decimals: int = 1


MEASURES = (
    Measure("accuracy, %", lambda rows: rows["accuracy"], 100),
    Measure("NLL", lambda rows: rows["nll"], decimals=2),
    Measure("ECE less null, %", lambda rows: rows["ece"] - rows["ece_null"], 100),
    Measure("AURC, %", lambda rows: rows["aurc_confidence"], 100),
    Measure("OOD AUROC, %", lambda rows: rows.filter(regex=OUTLIERS.format("entropy")).mean(axis=1), 100),
    Measure("by MI, %", lambda rows: rows.filter(regex=OUTLIERS.format("information")).mean(axis=1), 100),
    Measure("corrupted, %", lambda rows: rows["accuracy_corrupted"], 100),
    Measure("training, TFLOPs", lambda rows: rows["total_flops"], 1e-12),
    Measure("kB", lambda rows: rows["bytes"], 1e-3),
)


def labelled(records: pd.DataFrame) -> pd.DataFrame:
    """Return the records with `by`, the method, `mask`, and `curve`, both together."""
    found = [_labels(row) for row in records.to_dict("records")]
    named = records.assign(by=[by for by, _ in found], mask=[mask for _, mask in found])
    return named.assign(curve=named["by"] + ", " + named["mask"])


def _labels(row: dict) -> tuple[str, str]:
    by = SAID.get(row["method"], row["method"]) + (", last layer" if row["study"] == LAST_LAYER else "")
    changes = json.loads(row["changes"])
    if row["level"] == 0:
        return by, "dense"
    if row["arm"] == "in_training":
        more = ", longer" if "train.epochs" in changes else ""
        return by, WAYS.get(way := changes["train.sparse"]["way"], way) + more
    if row["arm"] == "before_training":
        return by, ONCE.get(row["score"], row["score"]) + (", ERK" if changes.get("scope") == "erk" else "")
    return by, MASKS.get(row["arm"], row["arm"].replace("_", " "))


def place(rows: pd.DataFrame) -> tuple[int, str]:
    """Return where the table has these rows: chains and their controls, other methods one by one, ways to be sparse."""
    first = rows.iloc[0]
    planted = first["arm"].startswith("transplant")
    return (2 if first["arm"] in ("before_training", "in_training") else int(planted)), first["by"] if planted else ""


def spread(values: pd.Series, measure: Measure) -> str:
    """Return the mean and half of its 90% Student t interval over seeds, "58.1 ± 1.2"; the mean alone of one seed."""
    found = values.dropna().astype(float) * measure.scale
    if not len(found):
        return NONE
    mean = f"{found.mean():.{measure.decimals}f}".replace("-", MINUS)
    if len(found) < 2:
        return mean
    half = float(stdtrit(len(found) - 1, 1 - ALPHA)) * found.std() / math.sqrt(len(found))
    return mean if half < 0.5 * 10**-measure.decimals else f"{mean} ± {half:.{measure.decimals}f}"


def line(rows: pd.DataFrame) -> list[str]:
    """Return the cells of a row of the table: method, mask, measures, and the seeds that are there."""
    first, seeds = rows.iloc[0], rows["seed"].nunique()
    cells = [spread(measure.value(rows), measure) for measure in MEASURES]
    return [first["by"], first["mask"], *cells, str(seeds) if seeds == PLAN else f"{seeds} of {PLAN}"]
