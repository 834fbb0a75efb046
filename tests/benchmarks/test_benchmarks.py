"""The benchmarks, at toy size: that each runs, says what it missed and keeps a whole record. What is measured is no test."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.correct import assert_learns
from benchmarks.nets import AGAINST, NETS, TIMED, TOY
from benchmarks.record import PEERS, Verdict, finish, installed
from benchmarks.steps import SETTINGS, configurations

from benchmarks import data, memory, peers, predict, scale, study, timing, training
from tombola.models import build

MAKE_PAGE = Path(__file__).parents[2] / "docs" / "make_performance.py"
VMAP = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
SMALL = {
    "resnet20": {"width": 4},
    "vgg11": {"width": 4},
    "vit_tiny": {"patch": 16, "depth": 1},  # its Block is another class than the ResNet's
    "mlp": {"hidden": [20]},
}


def run(main: Callable[[list[str]], int], tmp_path: Path, *argv: str) -> tuple[int, dict]:
    threads = torch.get_num_threads()
    try:
        code = main([*argv, "--quick", "--out", str(tmp_path / "record.json")])
    finally:
        torch.set_num_threads(threads)
    return code, json.loads((tmp_path / "record.json").read_text())


def assert_whole(record: dict, benchmark: str) -> None:
    assert record["benchmark"] == benchmark
    assert record["command"].startswith(f"python -m benchmarks.{benchmark} ")
    assert {"cpu", "capability", "cores", "machine"} <= record["hardware"].keys()
    assert all(record["hardware"].values())
    assert record["versions"]["torch"] == torch.__version__
    assert [package for package in PEERS if package in record["versions"]] == [p for p in PEERS if installed(p)]
    assert all({"threads", "verdicts"} <= row.keys() for row in record["rows"])


def targets(monkeypatch: pytest.MonkeyPatch, **values: dict[str, float]) -> None:
    monkeypatch.setitem(NETS, TOY, replace(NETS[TOY], **values))


def test_a_missed_target_gives_exit_code_1_and_a_met_one_0(monkeypatch, tmp_path, capsys):
    for most, code in ((1e-9, 1), (1e9, 0)):
        targets(monkeypatch, targets={"vi": most})
        found, record = run(training.main, tmp_path, "--nets", TOY, "--only", "vi", "--no-memory")
        assert found == code
        assert ("MISSED" in capsys.readouterr().err) == bool(code)
    assert_whole(record, "training")


@VMAP
def test_training_is_measured_for_each_number_of_threads_with_memory_and_peers(tmp_path):
    labels = ["vi", "torch-blue, 1 sample"] if installed("torch-blue") else ["vi"]
    code, record = run(training.main, tmp_path, "--nets", TOY, "--only", *labels, "--threads", "1", "1")
    assert code == 0  # the toy has no targets
    assert_whole(record, "training")
    assert [row["threads"] for row in record["rows"]] == [1, 1]  # two threads would wait for each other
    for row in record["rows"]:
        plain = ["deterministic, contiguous", "deterministic, channels_last"]
        assert list(row["ratio"]) == [*plain, *labels]
        assert row["ratio"][row["fastest"]] == 1 == min(row["ratio"][label] for label in plain)
        assert row["ratio"]["vi"] == pytest.approx(row["milliseconds"]["vi"] / row["milliseconds"][row["fastest"]])
        assert row["layout"].keys() == {"tombola", *(["torch-blue"] if len(labels) == 2 else [])}
        assert row["peak_megabytes"].keys() <= row["ratio"].keys()
        assert all(peak >= 0 for peak in row["peak_megabytes"].values())


def test_ten_samples_are_judged_against_those_of_the_papers_library():
    us, them = AGAINST
    row = {"net": "resnet20", "precision": "fp32", "batch": 128, "ratio": {us: 10.0, them: 45.0}}
    found = [Verdict(**each) for each in training._judged({**row, "peak_megabytes": {us: 40.0, them: 100.0}})["verdicts"]]
    judged = {verdict.what: (verdict.found, verdict.met) for verdict in found}
    assert judged[us] == (10.0, True)
    assert judged[f"time of {us}, over {them}"] == (pytest.approx(10 / 45), True)
    assert judged[f"peak memory of {us}, over {them}"] == (0.4, False)
    assert training._judged({**row, "precision": "bf16", "peak_megabytes": {}})["verdicts"] == []


def test_every_target_names_a_configuration():
    known = configurations().keys()
    for name in TIMED:
        assert NETS[name].targets.keys() <= known
    assert set(AGAINST) <= {*SETTINGS, *peers.STEPS}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process its peak memory")
def test_the_peak_memory_of_adam_is_at_least_four_times_the_weights():
    job = memory.Job("mlp-5m", "deterministic", 8, "fp32", "contiguous", 1)
    peak = max(memory.peak_megabytes([job] * 3))  # what else goes on in a process takes away from one reading, adds to none
    weights = sum(p.numel() for p in NETS["mlp-5m"].make().parameters()) * 4 / 2**20
    assert 4 * weights < peak < 5.5 * weights  # the weights, their gradients, two moments; little else at batch 8


def test_memory_that_cannot_be_measured_is_an_error():
    with pytest.raises(RuntimeError, match="nonsense on toy: KeyError"):
        memory.peak_megabytes([memory.Job(TOY, "nonsense", None, "fp32", "contiguous", 1)])


def test_medians_are_of_each_in_turn_and_slow_ones_have_fewer_rounds():
    now, calls = 0.0, {"fast": 0, "slow": 0, "slowest": 0}
    took = {"fast": 1.0, "slow": 10.0, "slowest": 100.0}

    def call(name: str) -> Callable[[], None]:
        def advance() -> None:
            nonlocal now
            calls[name] += 1
            now += took[name] * (3 if calls[name] == 2 else 1)  # one outlier

        return advance

    assert timing.interleaved({name: call(name) for name in took}, 31, lambda: now) == took
    assert calls == {"fast": 32, "slow": 8, "slowest": 4}  # with the untimed first


def test_a_step_that_does_not_lower_the_loss_is_said():
    with pytest.raises(AssertionError, match="still: the loss does not decrease"):
        assert_learns("still", lambda: torch.tensor(1.0))


@VMAP
@pytest.mark.parametrize("package", PEERS)
@pytest.mark.parametrize("model", SMALL)
def test_a_peer_without_variance_gives_the_networks_outputs(package, model, monkeypatch):
    if installed(package) is None:
        pytest.skip(f"{package} is a peer that is not installed")
    module = build(model, SMALL[model], (3, 32, 32), 10, ("benchmark",))
    inputs = NETS["resnet20"].data(4)[0]
    peers.assert_same_outputs(package, module, inputs)
    made = peers.PREDICT[package]
    monkeypatch.setitem(peers.PREDICT, package, lambda net, x, samples, std: made(net, x, samples, 0.1))
    with pytest.raises(AssertionError):
        peers.assert_same_outputs(package, module, inputs)


@VMAP
@pytest.mark.parametrize("label", peers.STEPS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_peers_steps_lower_its_loss(label, precision):
    package, make = peers.STEPS[label]
    if installed(package) is None:
        pytest.skip(f"{package} is a peer that is not installed")
    assert_learns(label, make(NETS[TOY].make().train(), NETS[TOY].data(), precision))


@VMAP
def test_predictions_are_measured_and_a_missed_target_is_said(monkeypatch, tmp_path):
    targets(monkeypatch, predict_targets={"16 samples": 1e-9})
    code, record = run(predict.main, tmp_path, "--nets", TOY)
    assert code == 1
    assert_whole(record, "predict")
    (row,) = record["rows"]
    ours = ["mean only", *(f"16 samples{how}" for how in ("", ", channels_last", ", bf16", ", bf16, channels_last"))]
    theirs = [f"{package}, 16 samples" for package in PEERS if installed(package)]
    assert list(row["ratio"]) == ["forward pass, contiguous", "forward pass, channels_last", *ours, *theirs]


def test_an_epoch_of_images_is_measured(tmp_path):
    code, record = run(data.main, tmp_path, "--images", "256")
    assert code == 0  # other numbers than 50,000 have no target
    assert_whole(record, "data")
    assert [row["how"] for row in record["rows"]] == ["resident", "streamed"]


def test_the_bare_loop_of_a_study_trains():
    epoch = study._loop("vi")
    assert epoch() > 0


@pytest.mark.slow
def test_a_study_is_measured(tmp_path):
    code, record = run(study.main, tmp_path)
    assert code == 0  # a reduced one has no targets
    assert_whole(record, "study")
    (row,) = record["rows"]
    assert row["steps"] == {"vi": 5 * 5 * 20, "map": 3 * 5 * 20}  # trainings, epochs, steps
    assert {"study", "resume", "demo"} <= row["seconds"].keys()


@pytest.mark.slow
def test_commands_are_measured(tmp_path):
    code, record = run(scale.main, tmp_path)
    assert code == 0  # reduced studies have no targets
    assert_whole(record, "scale")
    (row,) = record["rows"]
    assert row["seconds"].keys() == row["megabytes"].keys() == {*scale.TARGETS, "resume"}
    assert row["megabytes"]["status"] < row["megabytes"]["resume"]  # no torch


def page_maker():
    spec = importlib.util.spec_from_file_location("make_performance", MAKE_PAGE)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_the_page_shows_targets_what_was_missed_and_peers(monkeypatch, tmp_path):
    script = page_maker()
    row = {"net": "resnet20", "batch": 128, "precision": "fp32", "threads": 2, "fastest": "deterministic, contiguous"}
    ratio = {"deterministic, contiguous": 1.0, "vi": 1.2, "map": 1.0, "ivon-opt": 1.1}
    verdicts = [Verdict("vi", 1.2, 1.05), Verdict("map", 1.0, 1.1)]
    rows = [row | {"ratio": ratio, "milliseconds": {k: 500 * v for k, v in ratio.items()}, "peak_megabytes": {"vi": 40.0}}]
    rows[0]["verdicts"] = [vars(verdict) for verdict in verdicts]
    assert finish("training", rows, tmp_path / "a.json", ["--quick"]) == 1
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    page = script.page()
    assert "| 2 threads, fp32 | resnet20, batch 128 |" in page
    assert "| vi | **1.20, missed** (≤ 1.05) |" in page
    assert "| map | 1.00 (≤ 1.10) |" in page
    assert "| ivon-opt | 1.10 |" in page
    assert "| vi | 40 MB |" in page
    assert f"torch {torch.__version__}" in page
