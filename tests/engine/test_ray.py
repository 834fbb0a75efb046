"""Ray: whatever dies (a worker, a node, the driver), a study ends with the records of the local engine, bit for bit."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml

from tombola.engine.folder import StudyFolder
from tombola.engine.on_ray import run_task
from tombola.engine.progress import seen
from tombola.engine.records import collect
from tombola.engine.store import Store, missing
from tombola.metrics.columns import names
from tombola.study.stages import Train
from tombola.training.work import Work

pytest.importorskip("ray")

STUDY = {
    "name": "small",
    "seeds": [0, 1],
    "threads": 1,
    "checkpoint_seconds": 0.02,
    "data": {"name": "digits", "args": {"validation": 0, "test": 1500}},
    "model": {"name": "mlp", "args": {"hidden": [16]}},
    "train": {"epochs": 60, "batch_size": 16, "lr": 0.01},
    "prune": {"levels": 1, "fraction": 0.6},
    "evaluate": {"samples": 4},
    "arms": ["ticket", "deterministic"],
}
BRIEF = STUDY | {"seeds": [0], "train": STUDY["train"] | {"epochs": 25}}
TOMBOLA = [sys.executable, "-P", "-c", "from tombola.cli.app import main; main()"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study's file, and its records by the local engine."""
    folder = tmp_path_factory.mktemp("local")
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    subprocess.run([*TOMBOLA, "run", path, "--out", folder / "small", "--jobs", "1", "--quiet"], check=True)
    return path, records(folder / "small")


@pytest.fixture
def cluster(monkeypatch):
    """A head, and another node; each has one CPU."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's workers would wait for all else that this machine computes
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGTERM)
    small = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **small})
    cluster.add_node(num_cpus=1, **small)
    signal.signal(signal.SIGTERM, before)  # Ray sets one of its own, which other tests of this process would meet
    yield cluster
    cluster.shutdown()


def records(folder):
    return pd.read_parquet(folder / "records.parquet").drop(columns=list(names("timing")), errors="ignore")


DRIVERS = """
import json, os, sys
from pathlib import Path
import ray, torch
from tombola.engine.folder import StudyFolder
from tombola.engine.on_ray import RayTasks
from tombola.engine.store import missing

raw, place, address = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
for _ in sys.stdin:
    if pid := os.fork():
        print(pid, flush=True)
        if (code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) >= 0:
            sys.exit(code)  # else it was killed, and the next line begins another
        continue
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    folder = StudyFolder.of(raw, place / "small", None, place)
    folder.prepare()
    with RayTasks(folder, "cpu", 1, print, address=address) as crew:
        while crew.at_work():
            pass
    os._exit(bool(missing(folder.plan, folder.store)))
"""
"""Runs a driver for each line: forks, which do not import torch each time."""


def driver(study, folder, cluster):
    """Start a run on the cluster."""
    command = [*TOMBOLA, "run", study, "--out", folder / "small", "--engine", "ray", "--address", cluster.address]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def in_training(folder, run, after=frozenset()):
    """Return the progress of a training with a checkpoint, of no process of `after`; None at the run's end."""
    unfinished = folder / "tombola-stages" / "unfinished"
    while run.poll() is None:
        for one in seen(unfinished):
            there = (unfinished / f"{one.progress.key}.checkpoint").exists()
            if one.state == "running" and one.progress.done > 3 and there and one.progress.pid not in after:
                return one.progress
        time.sleep(0.005)
    return None


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def test_a_killed_worker_a_removed_node_and_a_killed_driver(cluster, tmp_path, plan_of, run_plan):
    whole, _, _ = run_plan(plan := plan_of(BRIEF), "whole")
    command = [sys.executable, "-c", DRIVERS, json.dumps(BRIEF), tmp_path, cluster.address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as drivers:
        first = begun(drivers)
        at_work = in_training(tmp_path, drivers)
        kill(at_work.pid)  # Ray tries the task again
        assert in_training(tmp_path, drivers, {at_work.pid})
        kill(first)
        before = {one.progress.pid for one in seen(tmp_path / "tombola-stages" / "unfinished")}
        begun(drivers)
        assert in_training(tmp_path, drivers, before)
        cluster.remove_node(*cluster.worker_nodes, allow_graceful=False)
        assert drivers.wait(120) == 0
    found = Store(tmp_path / "tombola-stages")
    assert missing(plan, found) == []
    ours, theirs = (collect(plan, store).drop(columns=list(names("timing"))) for store in (whole, found))
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


def begun(drivers):
    """Begin another driver; return its process id."""
    drivers.stdin.write("\n")
    drivers.stdin.flush()
    return int(drivers.stdout.readline())


def test_sigterm_leaves_a_checkpoint_and_no_failure(tmp_path, monkeypatch):
    """Ray's handler raises SystemExit wherever the worker is: no fault of the stage."""

    def theirs(*_):
        raise SystemExit("The process receives a SIGTERM.")

    def step_and_end(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        return update(self, *args)

    folder = StudyFolder.of(BRIEF, tmp_path / "small", None, tmp_path)
    folder.prepare()
    keys = [stage.key for stage in missing(folder.plan, folder.store)]
    first = next(stage for stage in folder.plan.stages if isinstance(stage, Train))
    update = Work.update
    monkeypatch.setattr(Work, "update", step_and_end)
    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with pytest.raises(SystemExit):
            run_task(str(folder.path), "a run", keys, "cpu", 1, math.inf)
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)
    assert folder.store.failure(first.key)[1] == ""
    assert (folder.store.unfinished / f"{first.key}.checkpoint").exists()


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(10))
@pytest.mark.parametrize("what", ["worker", "node", "driver"])
def test_at_any_instant(study, cluster, tmp_path, what, trial):
    path, expected = study
    instant = random.Random(f"{what} {trial}")
    run = driver(path, tmp_path, cluster)
    found = in_training(tmp_path, run)
    time.sleep(instant.uniform(0, 3))
    if what == "worker":
        at_work = [one.progress.pid for one in seen(tmp_path / "tombola-stages" / "unfinished") if one.state == "running"]
        kill(instant.choice(at_work or [found.pid]))
    elif what == "node":
        cluster.remove_node(*cluster.worker_nodes, allow_graceful=False)
    else:
        kill(run.pid)
        run.wait()
        run = driver(path, tmp_path, cluster)
    assert run.wait(180) == 0
    pd.testing.assert_frame_equal(records(tmp_path / "small"), expected, check_exact=True)


@pytest.mark.slow
def test_a_failed_stage_stops_only_what_depends_on_it(tmp_path):
    """The seeds that a plug-in's method refuses fail; the summary names the log."""
    (tmp_path / "mine.py").write_text(
        "from tombola.pruning.scores import SCORES\ndef score(*args):\n    raise RuntimeError('no score today')\n"
    )
    raw = STUDY | {"train": STUDY["train"] | {"epochs": 1}, "prune": {"levels": 1, "score": "mine:score"}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(raw))
    command = [*TOMBOLA, "run", tmp_path / "small.yaml", "--out", tmp_path / "small", "--engine", "ray", "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no score today" in done.stdout
    assert ".error" in done.stdout
    table = records(tmp_path / "small")
    assert set(table["arm"]) == {"ticket", "deterministic"}  # dense levels, and the deterministic arm whole
