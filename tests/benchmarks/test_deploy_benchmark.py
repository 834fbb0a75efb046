"""The benchmark of compiled tickets, at toy size."""

import json

import pytest

pytest.importorskip("numba")
from benchmarks import deploy


def test_a_record_is_made_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path))
    out = tmp_path / "record.json"
    small = ["--quick", "--nets", "mlp", "--out", str(out), "--add"]
    assert deploy.main([*small, "--masks", "95%", "--batches", "1"]) in (0, 1)  # a race with dense, which is no test
    assert deploy.main([*small, "--masks", "95%", "layers of a ticket", "--batches", "1", "2"]) in (0, 1)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["net"], row["mask"], row["batch"]) for row in rows] == [("mlp", "95%", 1), ("mlp", "95%", 2)]
    for row in rows:
        assert row["fastest"].startswith("dense, fp32")
        assert row["kernels"]["sparse"] + row["kernels"]["torch"] == 3
        assert row["verdicts"][0]["target"] == 1.05
