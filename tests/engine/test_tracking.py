"""Trackers: every finished stage is sent once, and none of them can stop a run."""

import json
import sys
import time
from pathlib import Path

import pytest
import yaml

from support.running import TINY, command_line, leave_out_figures
from tombola.engine import tracking
from tombola.engine.trackers import TRACKERS, TrackedRun

RUN = TrackedRun(
    study="a study",
    name="ticket (snr), seed 0: train",
    key="0123",
    settings={"kind": "train", "train.lr": 0.01},
    history=[{"epoch": 1, "loss": 2.0, "nll": 2.5}, {"epoch": 2, "loss": 1.0, "nll": 1.5}],
    final={"best_accuracy": 0.75},
)


class Kept:
    """Tracker that keeps what it is sent."""

    sent: list = []  # noqa: RUF012 - emptied by each test

    def __init__(self, folder: Path):
        self.folder = folder

    def send(self, run: TrackedRun) -> None:
        self.sent.append(run)


class Down(Kept):
    def send(self, run: TrackedRun) -> None:
        raise ConnectionError("nobody there")


class Hangs(Kept):
    def send(self, run: TrackedRun) -> None:
        time.sleep(3600)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a tiny study with some trackers."""
    leave_out_figures(monkeypatch)
    monkeypatch.setattr(Kept, "sent", [])
    for name, tracker in (("kept", Kept), ("down", Down), ("hangs", Hangs)):
        monkeypatch.setitem(TRACKERS, name, tracker)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))

    def start(*options):
        return command_line("run", tmp_path / "tiny.yaml", "--out", tmp_path / "out", "--device", "cpu", *options)

    return start


def test_every_stage_is_sent_once_with_its_epochs_and_numbers(run, tmp_path):
    assert run("--tracker", "kept").exit_code == 0
    by_name = {one.name: one for one in Kept.sent}
    assert len(by_name) == len(Kept.sent)
    trained = [one for one in Kept.sent if one.settings["kind"] == "train"]
    assert trained
    for one in trained:
        record = json.loads((tmp_path / "tombola-stages" / one.key / "record.json").read_text())
        assert one.history == record["history"]
        assert [row["epoch"] for row in one.history] == [1, 2]
        assert one.final["steps"] == record["record"]["steps"]
    measured = [one for one in Kept.sent if one.settings["kind"] == "evaluate"]
    assert all("accuracy" in one.final and not one.history for one in measured)
    count = len(Kept.sent)
    assert run("--tracker", "kept").exit_code == 0
    assert len(Kept.sent) == count


def test_a_finished_study_is_sent_when_a_tracker_is_named_later(run):
    assert run().exit_code == 0
    assert not Kept.sent
    assert run("--tracker", "kept").exit_code == 0
    assert Kept.sent


@pytest.mark.slow
def test_other_processes_are_followed_through_the_store(run):
    assert run("--jobs", 2, "--tracker", "kept").exit_code == 0
    assert {"train", "evaluate"} <= {one.settings["kind"] for one in Kept.sent}


def test_one_that_raises_or_hangs_is_said_once_and_stops_nothing(run, monkeypatch, tmp_path):
    monkeypatch.setattr(tracking, "_PATIENCE", 0.2)
    done = run("--tracker", "down", "--tracker", "hangs", "--tracker", "kept")
    assert done.exit_code == 0
    said = " ".join(done.output.split())
    assert said.count("tracker down is left out (ConnectionError: nobody there)") == 1
    assert said.count("tracker hangs takes nothing") == 1
    assert Kept.sent
    assert (tmp_path / "out" / "report.html").is_file()
    assert not any(
        line.startswith(("down", "hangs")) for line in (tmp_path / "out" / tracking.SENT).read_text().splitlines()
    )


def test_an_unknown_one_is_refused_before_anything_runs(run, tmp_path):
    done = run("--tracker", "mlflw")
    assert done.exit_code == 2
    assert "unknown tracker 'mlflw': did you mean 'mlflow'?" in " ".join(done.output.split())
    assert not (tmp_path / "tombola-stages").exists()


@pytest.mark.slow
def test_mlflow_keeps_curves_and_numbers(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    TRACKERS["mlflow"](tmp_path).send(RUN)
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("a study").experiment_id])
    assert found.info.run_name == RUN.name
    assert found.data.params["train.lr"] == "0.01"
    assert [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "nll")] == [(1, 2.5), (2, 1.5)]
    assert found.data.metrics["final/best_accuracy"] == 0.75


def test_tensorboard_keeps_curves_and_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    TRACKERS["tensorboard"](tmp_path).send(RUN)
    (folder,) = (tmp_path / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("nll")] == [(1, 2.5), (2, 1.5)]
    assert [e.value for e in events.Scalars("final/best_accuracy")] == [0.75]


@pytest.mark.slow
def test_wandb_keeps_a_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    TRACKERS["wandb"](tmp_path).send(RUN)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-0123.wandb")
    ends = time.monotonic() + 10
    while b"final/best_accuracy" not in (content := file.read_bytes()) and time.monotonic() < ends:
        time.sleep(0.05)  # its service writes on after the run's end
    assert b"final/best_accuracy" in content
    assert b"ticket (snr), seed 0: train" in content


def test_a_missing_package_is_said_with_its_extra(tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setitem(sys.modules, "wandb", None)
    sender = tracking._Sender("wandb", TRACKERS["wandb"], tmp_path, said.append)
    sender.put(RUN)
    sender.close()
    assert len(said) == 1
    assert "pip install 'tombola[wandb]'" in said[0]
