"""benchmarks.gpu at toy size on a CPU: that each piece runs and keeps a whole record. What is measured is no test."""

import json

import pytest
import torch
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.job import MINUTES, Job, recipe
from benchmarks.gpu.steps import ARMS, fastest_of, summary

from tombola.study.recipes import cifar10

TOY = ["--device", "cpu", "--toy", "--nets", "resnet20"]


@pytest.fixture(autouse=True)
def _four_brief_epochs(brief_toys, monkeypatch):
    """As many as are timed."""
    monkeypatch.setitem(cifar10()["sizes"]["toy"]["common"]["train"], "epochs", 4)


def rows(folder, piece, net="resnet20"):
    record = json.loads((folder / f"{piece}-{net}.json").read_text())
    assert record["benchmark"] == "gpu"
    assert record["command"].startswith(f"python -m benchmarks.gpu {piece} ")
    assert {"cpu", "cores"} <= record["hardware"].keys()
    assert all({"net", "data", "threads", "verdicts"} <= row.keys() for row in record["rows"])
    return record["rows"]


def test_every_piece_runs(tmp_path):
    for piece in ("steps", "profile", "data", "levels"):
        assert main([piece, *TOY, "--out", str(tmp_path)]) == 0, piece
    arms = summary(rows(tmp_path, "steps"))["arms"]
    assert arms.keys() == ARMS.keys()
    assert arms["vi, 10 samples"]["ratio"] > 2 * arms["vi"]["ratio"]
    assert rows(tmp_path, "profile")[0]["flop"] > 1e5
    assert rows(tmp_path, "data")[0]["share"] > 0
    levels = rows(tmp_path, "levels")
    assert {row["extrapolated"] for row in levels} == {True}
    fastest = fastest_of(rows(tmp_path, "steps"))
    assert levels[0]["configuration"] == fastest["vi"]
    assert main(["levels", *TOY, "--whole", "--out", str(tmp_path)]) == 0
    assert all(row["minutes"] > 0 and not row["extrapolated"] for row in rows(tmp_path, "levels"))


def test_other_networks_have_records_of_their_own(tmp_path):
    assert main(["data", *TOY[:-1], "vgg11", "vit_tiny", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data-vgg11.json", "data-vit_tiny.json"]


def test_configurations_are_compared_by_the_reference_beside_them():
    """The machine is half as fast beside the Bayesian steps: one of 2.2 s is then 1.1 times one of 1 s."""
    found = [
        {"label": "plain fp32", "seconds": 1.0, "relative": 0.5},
        {"label": "map | bf16", "seconds": 1.5, "relative": 0.75},
        {"label": "vi | fp32", "seconds": 2.2, "relative": 0.55},
        {"label": "vi | bf16", "seconds": 2.1, "relative": 1.05},
        {"label": "vi, 10 samples | bf16", "failed": "out of memory"},
    ]
    made = summary(found)
    assert made["deterministic"]["label"] == "plain fp32"
    assert {arm: (one["label"], round(one["ratio"], 9)) for arm, one in made["arms"].items()} == {
        "map": ("bf16", 1.5),
        "vi": ("fp32", 1.1),
    }
    assert fastest_of(found) == {"map": {"precision": "bf16"}, "vi": {}}
    assert summary([]) == {"deterministic": None, "arms": {}}


def test_a_gpu_is_not_imagined(tmp_path, capsys):
    if not torch.cuda.is_available():
        assert main(["steps", "--out", str(tmp_path)]) == 2
        assert "sees no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("net", MINUTES)
def test_the_settings_are_those_of_the_recipes(net):
    job = Job(torch.device("cpu"))
    full, fast = job.settings(net), job.settings(net, "gpu")
    assert (full.epochs, full.samples, recipe("full", net).train.samples) == (160, 1, 10)
    assert full.batch_size == {"vit_tiny": 1024}.get(net, 128)
    assert fast.epochs <= 30
    assert job.study(net).data.flip
