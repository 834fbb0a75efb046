"""Records given as files: a column that is not what it means is one sentence that names it, and no verdict."""

import pandas as pd
import pytest

from support.claim_records import rows_of
from tombola.claims.curves import SNR
from tombola.errors import TombolaError
from tombola.metrics.records import read


@pytest.fixture
def table():
    return rows_of(SNR, seeds=2, levels=range(3)).assign(classes=10.0, examples=100)


def test_what_a_study_writes_is_read_back(table, tmp_path):
    lacking = table.assign(mace=float("nan"), train_seconds=float("inf"), variant=None)  # as of another task or version
    lacking.to_parquet(tmp_path / "records.parquet")
    pd.testing.assert_frame_equal(read([tmp_path]), pd.read_parquet(tmp_path / "records.parquet"))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("accuracy", 85.0, r"column 'accuracy' has 85\.0, which is no share between 0 and 1"),
        ("density", 0.0, "column 'density' has 0.0, which is no share"),
        ("density", float("nan"), "column 'density' has no value in 1 of 6 rows"),
        ("level", 1.5, "column 'level' has 1.5, which is no whole number of at least 0"),
        ("level", float("nan"), "column 'level' has no value in 1 of 6 rows"),
        ("seed", float("inf"), "column 'seed' has inf, which is no whole number"),
        ("parameters", 0, "column 'parameters' has 0, which is no whole number of at least 1"),
        ("classes", 0, "column 'classes' has 0.0, which is no number of at least 1"),
        ("train_seconds", "soon", "column 'train_seconds' has '.*', which is no number"),
        ("changes", '{"a":', r"column 'changes' has '.*', which is no JSON mapping"),
        ("settings", "[1]", r"column 'settings' has '\[1\]', which is no JSON mapping"),
        ("layer_density", '{"a": {}}', "column 'layer_density' has .*, which is no JSON mapping"),
        ("changes", None, "column 'changes' has no value in 1 of 6 rows"),
    ],
)
def test_a_value_that_a_column_cannot_have(table, tmp_path, column, value, said):
    values = table[column].astype(object)
    values.iloc[0] = value
    table[column] = values.astype(str) if value == "soon" else values.infer_objects()
    table.to_parquet(tmp_path / "x.parquet")
    with pytest.raises(TombolaError, match=said) as caught:
        read([tmp_path / "x.parquet"])
    assert len(str(caught.value).removeprefix(str(tmp_path))) < 300


@pytest.mark.parametrize("column", ["study", "seed", "density"])
def test_a_column_that_is_missing(table, tmp_path, column):
    table.drop(columns=column).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(TombolaError, match=f"it has no column '{column}'; 'tombola report DIR' writes"):
        read([tmp_path / "x.parquet"])
