"""SLURM by submitit's local executor: jobs pull stages, put themselves back into the queue, and give the same records."""

import re
import sys
import time
from types import SimpleNamespace

import pytest
from pandas.testing import assert_frame_equal

from tombola.cli.elsewhere import elsewhere
from tombola.engine.folder import StudyFolder
from tombola.engine.on_slurm import Puller, SlurmJobs
from tombola.engine.records import collect
from tombola.engine.store import missing
from tombola.errors import TombolaError
from tombola.metrics.columns import names
from tombola.study.spec import read

pytest.importorskip("submitit")


@pytest.fixture
def folder(tiny, study_file, tmp_path):
    path = study_file(tiny | {"threads": 1, "prune": {"levels": 0}})  # few stages: each may cost a start of a process
    folder = StudyFolder.of(read(str(path), []), tmp_path / "out", None, tmp_path)
    folder.prepare()
    return folder


def watched(jobs):
    with jobs:
        while jobs.at_work():
            time.sleep(0.05)


def test_jobs_that_are_queued_again_and_again_finish_the_study(folder, run_plan):
    """Each job's time is up at once, so each makes one step further and goes back into the queue."""
    said = []
    options = {"cluster": "local", "timeout_min": "60"}
    watched(SlurmJobs(folder, "cpu", 1, said.append, jobs=2, minutes=0.2, options=options))
    assert not missing(folder.plan, folder.store)
    assert "submitted 2 jobs" in said[0]
    local, _, _ = run_plan(folder.plan)
    ours, theirs = (collect(folder.plan, one).drop(columns=list(names("timing"))) for one in (folder.store, local))
    assert_frame_equal(ours, theirs, check_exact=True)


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"cluster": "local", "bogus": "1"}, "bogus"),
        ({"cluster": "moon"}, "moon"),
        ({}, "srun"),
    ],
)
def test_a_wrong_option_is_said_before_anything_is_submitted(folder, options, culprit, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TombolaError, match=culprit):
        watched(SlurmJobs(folder, "cpu", 1, print, options=options))


def test_options_of_another_engine_are_refused():
    with pytest.raises(TombolaError, match="--engine ray"):
        elsewhere("local", "cpu", "auto", 1.0, None, [])
    with pytest.raises(TombolaError, match="--engine slurm"):
        elsewhere("ray", "cpu", None, 1.0, None, ["partition=gpu"])
    with pytest.raises(TombolaError, match="NAME=VALUE"):
        elsewhere("slurm", "cpu", None, 1.0, None, ["gpu"])
    assert elsewhere("local", "cpu", None, 1.0, 5.0, []) is None


@pytest.mark.parametrize(
    ("engine", "more", "said"),
    [
        ("slurm", {"minutes": 0.0}, "--minutes is 0; give a number above 0"),
        ("slurm", {"minutes": float("nan")}, "--minutes is nan"),
        ("ray", {"minutes": float("inf")}, "--minutes is inf"),
        ("local", {"minutes": -5.0}, "--minutes is -5"),
        ("slurm", {"concurrent": 4}, "--concurrent 4 is for --engine local and ray"),
        ("local", {"concurrent": 4, "devices": 2}, "leave --concurrent out"),
        ("ray", {"devices": 2}, "leave --engine ray out"),
    ],
)
def test_options_that_would_be_ignored_are_refused(engine, more, said):
    with pytest.raises(TombolaError, match=re.escape(said)):
        elsewhere(engine, "cpu", None, 1.0, more.pop("minutes", None), [], **more)


@pytest.mark.parametrize(
    ("engine", "devices", "library", "extra"),
    [("ray", 1, "ray", "ray"), ("slurm", 1, "submitit", "slurm"), ("local", 2, "lightning_fabric", "fabric")],
)
def test_what_an_option_needs_is_looked_for_before_anything_runs(engine, devices, library, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(TombolaError, match=re.escape(f"pip install 'tombola[{extra}]'")):
        elsewhere(engine, "cpu", None, 1.0, None, [], devices)


def test_a_job_that_fails_is_said(folder):
    """As on a node that does not see the study's folder: the job returns exit code 2."""
    said = []
    jobs = SlurmJobs(folder, "cpu", 1, said.append)
    code = Puller(folder.path / "nowhere", "cpu", 1, 1.0, 1)()
    paths = SimpleNamespace(stderr="its.err")
    jobs._alive = [SimpleNamespace(done=lambda: True, exception=lambda: None, result=lambda: code, job_id="7", paths=paths)]
    assert not jobs.at_work()
    assert said == ["job 7 has ended with exit code 2; see its.err"]
