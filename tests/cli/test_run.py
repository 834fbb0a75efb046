"""Several studies by one command: checked before the first, on one store, and stopped when their time is up."""

import os
import signal

import pandas as pd
import pytest
import torch

from tombola.cli.run import spread
from tombola.engine.local import _dataset
from tombola.metrics.columns import names
from tombola.pruning.ticket import load
from tombola.study.spec import read as read_study

PAPER = ["scores", "layers", "randomise", "transplant", "rewind", "size", "rate", "calibration", "robustness"]


pytestmark = pytest.mark.usefixtures("quick_pages")


@pytest.fixture
def two(tiny, study_file):
    """Two studies that have stages in common."""
    tiny = tiny | {"train": {"epochs": 1, "batch_size": 100, "lr": 0.01}}
    first = study_file(tiny | {"name": "first", "arms": ["ticket", "deterministic"]}, "a.yaml")
    return first, study_file(tiny | {"name": "second", "arms": ["ticket", "reinit"]}, "b.yaml")


def test_the_name_of_a_folder_stands_for_the_studies_in_it():
    assert spread(["paper"]) == [f"paper/{name}" for name in PAPER]
    assert spread(["paper/rate", "my.yaml", "paper/"])[:4] == ["paper/rate", "my.yaml", "paper/scores", "paper/layers"]
    assert sorted(spread(["paper/rate", "paper"])) == sorted(spread(["paper"]))
    assert spread(["demo", "nothing"]) == ["demo", "nothing"]


def test_what_studies_share_runs_once_and_what_is_settled_is_left(cli, two, tmp_path, plan_of):
    first, second = ({stage.key for stage in plan_of(read_study(str(path), [])).stages} for path in two)
    assert first & second
    result = cli("run", *two, "--out", "out")
    assert result.exit_code == 0, result.output
    assert f"{two[0]}, 1 of 2 studies" in result.output
    assert f"{two[1]}, 2 of 2 studies" in result.output
    assert f"{len(second - first)} of {len(second)} stages to run" in result.output
    assert len(list(tmp_path.glob("out/tombola-stages/*/record.json"))) == len(first | second)
    curves = [set(pd.read_parquet(tmp_path / "out" / name / "records.parquet")["curve"]) for name in ("first", "second")]
    assert curves == [{"ticket (snr)", "deterministic (magnitude)"}, {"ticket (snr)", "re-init (snr)"}]
    assert "after Holm's correction" not in " ".join(result.output.split())  # claims are of the paper's studies
    assert "out/second/report.html" in result.output.splitlines()[-1]

    again = cli("run", *two, "--out", "out")
    assert again.output.count("the page was written after them") == 2
    other = cli("run", *two, "--out", "out", "--set", "evaluate.samples=3")
    assert "the page was written" not in other.output


def test_the_forecast_of_several_counts_shared_stages_once(cli, two, tmp_path, plan_of):
    result = cli("run", *two, "--dry-run")
    assert result.exit_code == 0, result.output
    plans = [plan_of(read_study(str(path), [])) for path in two]
    union = {stage.key for plan in plans for stage in plan.stages}
    assert len(union) < sum(len(plan.stages) for plan in plans)
    last = result.output.splitlines()[-1]
    assert last.startswith(f"all 2 studies together: 0 of {len(union)} stages done, {len(union)} to run, about ")
    assert not (tmp_path / "runs").exists()


def test_a_mistake_in_a_later_study_is_said_before_anything_runs(refused, two, tiny, study_file, tmp_path):
    bad = study_file(tiny | {"name": "bad", "prune": {"score": "snrr"}}, "bad.yaml")
    said = refused("run", *two, bad, "--out", "out")
    assert f"{bad}: unknown score 'snrr'" in said
    assert "called 'first' like another" in refused("run", *two, "--out", "out", "--set", "name=first")
    assert "there is no study 'nothing'" in refused("run", two[0], "nothing", "--out", "out")
    assert not (tmp_path / "out").exists()


def test_a_failure_in_one_study_is_the_exit_code_and_the_others_run(cli, two, tiny, study_file, tmp_path):
    bad = study_file(tiny | {"name": "bad", "train": {"lr": 1e9, "optimiser": "sgd"}, "prune": {"levels": 0}}, "bad.yaml")
    result = cli("run", bad, two[0], "--out", "out", "--set", "seeds=[3]")
    assert result.exit_code == 1
    assert len(pd.read_parquet(tmp_path / "out" / "bad" / "records.parquet")) == 0
    assert len(pd.read_parquet(tmp_path / "out" / "first" / "records.parquet")) == 4


@pytest.mark.parametrize("minutes", ["0", "-3", "nan", "inf"])
def test_minutes_that_are_none_are_refused(minutes, refused, two):
    assert f"--minutes is {minutes}; give a number above 0" in refused("run", two[0], f"--minutes={minutes}")


def test_studies_stopped_at_every_step_end_with_the_bits_of_uninterrupted_ones(cli, two, tmp_path):
    """Each run gets a step or a stage further: its time is up from the start."""
    changes = ["--set", "prune.levels=0", "--set", "checkpoint_seconds=1000"]
    stages = tmp_path / "cut" / "tombola-stages"
    codes, in_training = [], 0
    while not codes or codes[-1] == 3:
        result = cli("run", *two, "--out", "cut", "--minutes", "0.00001", *changes)
        codes.append(result.exit_code)
        said = [line for line in result.output.splitlines() if line.startswith("the time is up")]
        assert len(said) == (result.exit_code == 3), result.output
        assert all("the same command goes on" in line for line in said)
        in_training += bool(list(stages.glob("unfinished/*.checkpoint")))
        assert len(codes) < 20
    assert codes[-1] == 0
    assert in_training == 4  # two trainings of three steps
    assert cli("run", *two, "--out", "whole", *changes).exit_code == 0

    differing = names("timing", "environment")
    for name in ("first", "second"):
        tables = [pd.read_parquet(tmp_path / out / name / "records.parquet") for out in ("whole", "cut")]
        pd.testing.assert_frame_equal(*(table.drop(columns=differing) for table in tables), check_exact=True)
    for path in stages.glob("*/ticket.safetensors"):
        a, b = load(path), load(tmp_path / "whole" / path.relative_to(tmp_path / "cut"))
        assert (a.trained is None) == (b.trained is None)
        for name, value in a.trained.tensors().items() if a.trained else ():
            assert torch.equal(value, b.trained.tensors()[name]), (path, name)


def test_workers_stop_by_themselves_when_the_time_is_up(cli, two, tmp_path):
    result = cli("run", two[0], "--out", "out/first", "--minutes", "0.00001", "--jobs", "2")
    assert result.exit_code == 3, result.output
    assert "the time is up: what is finished is kept; the same command goes on" in result.output
    assert "died" not in result.output
    assert list((tmp_path / "out").glob("tombola-stages/*/record.json"))


WHEN = {
    "the data is read": "tombola.engine.local.load_data",
    "steps are timed": "tombola.cli.run.calibrate",
    "a stage is saved": "tombola.engine.store.Store.save",
    "records are written": "tombola.engine.records.write",
    "the page is written": "tombola.engine.folder.StudyFolder.write_report",
}


@pytest.mark.parametrize("when", WHEN)
def test_sigterm_ends_a_run_at_any_time_and_says_so(cli, tiny, study_file, tmp_path, monkeypatch, when):
    study = study_file(tiny | {"prune": {"levels": 0}})
    before = signal.getsignal(signal.SIGTERM)
    _dataset.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(WHEN[when], lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
        cut = cli("run", study, "--out", "out")
    assert cut.exit_code == 143, cut.output
    assert "terminated" in cut.output
    assert signal.getsignal(signal.SIGTERM) is before
    assert cli("run", study, "--out", "out").exit_code == 0
    assert len(pd.read_parquet("out/records.parquet")) == 1
    assert not [*tmp_path.glob("tombola-stages/unfinished/*"), *tmp_path.rglob("*.part")]
