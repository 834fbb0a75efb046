"""The table of columns: a metric is added in two places, and what is made from the table shows it."""

import json
import re
from pathlib import Path
from runpy import run_path
from typing import Any

import pandas as pd
import pytest
import torch

from tombola import metrics
from tombola.cli.run import run_studies
from tombola.engine.records import table_of
from tombola.metrics.column import Column
from tombola.metrics.columns import ANALYSES, RECORDS, names
from tombola.metrics.uncertainty_columns import MEASURED

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "docs" / "make_records.py")


def test_a_metric_is_added_in_two_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_figures: None) -> None:
    """Its value among the metrics of a classification, and its row: records, documentation and report have it."""
    plain = metrics.classification

    def classification(probs_SBC: torch.Tensor, labels_B: torch.Tensor, **how: Any) -> dict[str, float]:
        return plain(probs_SBC, labels_B, **how) | {"confidence": probs_SBC.mean(0).amax(1).mean().item()}

    row = Column("confidence", "metric", "fraction", "mean probability of the chosen class", label="confidence", decimals=2)
    monkeypatch.setattr(metrics, "classification", classification)
    monkeypatch.setitem(RECORDS, row.name, row)

    small = [
        "train.epochs=1",
        "prune.levels=1",
        "seeds=[0]",
        "model.args.hidden=[20]",
        "evaluate.samples=2",
        "arms=[ticket]",
    ]
    assert run_studies(["demo"], out=tmp_path, changes=small, device="cpu") == 0
    records = pd.read_parquet(tmp_path / "records.parquet")
    assert list(records.columns)[records.columns.get_loc("changes") + 1] == "confidence"
    assert records["confidence"].between(0.1, 1).all()

    assert "| `confidence` | fraction | mean probability of the chosen class |" in run_path(SCRIPT)["page"]()

    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', (tmp_path / "report.html").read_text())
    (offered,) = [each for each in json.loads(data)["panels"]["1"]["metrics"] if each["column"] == "confidence"]
    assert [offered[field] for field in ("name", "axis", "decimals")] == ["confidence", "confidence (fraction)", 2]


def test_the_table_has_what_is_computed() -> None:
    probs = torch.tensor([[[0.9, 0.1], [0.3, 0.7]]], dtype=torch.float64)
    found = metrics.classification(probs, torch.tensor([0, 1]), generator=torch.Generator())
    others = {"accuracy_sd", "best_accuracy", "rmse", "deviance"}
    measured = {column.name for column in MEASURED}  # by evaluate.measures: tests/training/test_measures.py
    assert found.keys() | others == set(names("metric", "calibration", "null")) - measured
    assert names("timing") == ["train_seconds", "total_seconds"]
    assert names("environment") == ["device", "torch", "threads"]
    # a table without rows has the columns that are not optional
    assert list(table_of([]).columns) == [column.name for column in RECORDS.values() if not column.optional]


def test_committed_records_have_the_columns_of_the_table() -> None:
    records, analyses = (
        pd.read_parquet(ROOT / "results" / "paper-cpu" / f"{name}.parquet") for name in ("records", "views")
    )
    assert set(records.columns) <= RECORDS.keys()
    assert list(analyses.columns) == list(ANALYSES)
