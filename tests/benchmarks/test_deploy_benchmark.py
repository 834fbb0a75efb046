"""The benchmark of compiled tickets, at toy size."""

import json

import pytest

pytest.importorskip("numba")
from benchmarks.deploy_figure import draw

from benchmarks import deploy, deploy_tickets


def test_a_record_is_made_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path))
    out = tmp_path / "record.json"
    small = ["--quick", "--nets", "mlp", "--no-tickets", "--out", str(out), "--add"]
    assert deploy.main([*small, "--masks", "95%", "--batches", "1"]) in (0, 1)  # a race with dense, which is no test
    assert {"moments", "16 samples"} <= json.loads(out.read_text())["rows"][0]["ratio"].keys()
    more = ["--plain", "--masks", "95%", "layers of a ticket", "--batches", "1", "2"]
    assert deploy.main([*small, *more]) in (0, 1)
    rows = json.loads(out.read_text())["rows"]
    assert [(row["net"], row["mask"], row["batch"]) for row in rows] == [("mlp", "95%", 1), ("mlp", "95%", 2)]
    for row in rows:
        assert row["fastest"].startswith("dense, fp32")
        assert row["kernels"]["sparse"] + row["kernels"]["torch"] == 3
        assert row["verdicts"][0]["target"] == 1.05


def test_sparse_kernels_break_even_between_two_shares():
    assert deploy.break_even({0.1: 0.5, 0.2: 0.8, 0.4: 1.25}) == pytest.approx(0.2 * 2**0.5)
    assert deploy.break_even({0.1: 0.5, 0.2: 0.8}) is None


@pytest.mark.slow
def test_tickets_of_a_chain_have_quality_time_memory_and_a_figure(tmp_path, monkeypatch):
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path))
    rows = deploy_tickets.measured(None, tmp_path, quick=True)
    assert [row["how"] for row in rows[2:]] == ["mean", "moments", "16 samples"] * 2
    assert all(row["accuracy"] > 0.5 and row["megabytes"] > 0 and row["milliseconds"] > 0 for row in rows)
    by_moments, by_samples = rows[-2:]
    assert abs(by_moments["nll"] - by_samples["nll"]) < 0.1
    assert by_moments["file_bytes"] == by_samples["file_bytes"]
    draw(rows, tmp_path / "tickets.png")
    assert (tmp_path / "tickets.csv").read_text().startswith("how,level,density,milliseconds,accuracy,nll")
