"""Several processes at one study: each stage is run once, what a killed one was at goes on in another, records are equal."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch

from tombola.engine.progress import seen
from tombola.engine.records import collect
from tombola.engine.store import Store, missing
from tombola.metrics.columns import names

STUDY = {
    "name": "small",
    "seeds": [0, 1],
    "data": {"name": "digits", "args": {"validation": 0, "test": 1500}},
    "model": {"name": "mlp", "args": {"hidden": [16]}},
    "train": {"epochs": 8, "batch_size": 32, "lr": 0.01},
    "prune": {"levels": 1, "fraction": 0.6},
    "evaluate": {"samples": 4},
    "arms": ["ticket", "deterministic"],
}

DRIVER = """
import json, os, signal, sys, time
from pathlib import Path
import torch, sklearn.datasets
from tombola.engine.local import LocalEngine, dataset
from tombola.study.plan import plan_study
from tombola.engine.progress import Watcher, seen
from tombola.engine.store import Store
from tombola.study.spec import unfold

torch.set_num_threads(1)
torch.optim.Adam([torch.zeros(1)])  # imports a thousand modules
plan = plan_study(unfold(json.loads(sys.argv[1])), dataset)
root = Path(sys.argv[2])

class Writer(Watcher):
    def __init__(self, path, linger):
        self.path, self.linger = path, linger
    def began(self, stage, progress):
        with self.path.open("a") as file: file.write(stage.key + chr(10))
    def stepped(self, stage, done, total):
        time.sleep(self.linger)

def start(store, log, linger=0.0):
    pid = os.fork()
    if not pid:
        engine = LocalEngine(Store(root / store), torch.device("cpu"), Writer(root / log, linger), checkpoint_seconds=0.02)
        engine.run(plan)
        os._exit(1 if engine.failures else 0)
    return pid

def ended(*pids):
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0

root.mkdir()
ended(start("alone", "alone.log"))
ended(start("shared", "first.log", 0.001), start("shared", "second.log", 0.001))
slow, quick = start("killed", "slow.log", 0.05), start("killed", "quick.log")
unfinished = root / "killed" / "unfinished"
while True:
    at = [one.progress for one in seen(unfinished) if one.progress.pid == slow and one.progress.done > 3]
    if at and (unfinished / (at[0].key + ".checkpoint")).exists():
        break
    time.sleep(0.01)
os.kill(slow, signal.SIGKILL)
os.waitpid(slow, 0)
(root / "killed.key").write_text(at[0].key)
ended(quick)
"""
"""Engines in forks, which do not have to import torch each time."""


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    root = tmp_path_factory.mktemp("workers") / "stores"
    subprocess.run([sys.executable, "-c", DRIVER, json.dumps(STUDY), root], check=True)
    return root


def keys_in(path):
    return path.read_text().split()


def same_records(plan, *stores):
    one, other = (collect(plan, store).drop(columns=names("timing")) for store in stores)
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_two_processes_share_the_work_and_run_each_stage_once(driven, plan_of):
    plan = plan_of(STUDY)
    first, second = (keys_in(driven / f"{name}.log") for name in ("first", "second"))
    assert sorted(first + second) == sorted(stage.key for stage in plan.stages)
    assert min(len(first), len(second)) > len(plan.stages) // 5
    same_records(plan, Store(driven / "alone"), Store(driven / "shared"))


def test_what_a_killed_process_was_at_goes_on_in_another(driven, plan_of):
    plan = plan_of(STUDY)
    slow, quick, key = (keys_in(driven / name) for name in ("slow.log", "quick.log", "killed.key"))
    assert slow[-1:] == key
    assert slow[-1] in quick
    assert set(slow[:-1]).isdisjoint(quick)  # what it had finished is not run again
    assert missing(plan, Store(driven / "killed")) == []
    same_records(plan, Store(driven / "alone"), Store(driven / "killed"))


def test_a_failure_in_another_process_is_a_failure_here(tiny, plan_of, run_plan, tmp_path):
    """The other one fails at the training whose lock it holds, while this one waits for it."""
    import threading

    plan = plan_of(tiny)
    training = plan.stages[1]
    store = Store(tmp_path / "stages")
    store.prepare()
    lock, result = store.lock(training.key), {}
    lock.acquire()
    thread = threading.Thread(target=lambda: result.update(engine=run_plan(plan)[2]))
    thread.start()
    thread.join(1.0)
    assert thread.is_alive()
    assert store.done(plan.stages[0].key)
    store.error_path(training.key).write_text("Traceback\nValueError: not today\n")
    lock.release()
    thread.join(60)
    failures = result["engine"].failures
    assert "failed in another process: ValueError: not today (details in " in failures[training.key]
    assert set(failures) == {stage.key for stage in plan.stages[1:]}
    assert not run_plan(plan)[2].failures  # a new run tries it again


WARNS = """
import warnings

def loudly(mean, std, generator):
    warnings.warn("this is a guess")
    return mean.abs()
"""


@pytest.mark.usefixtures("quick_pages")
def test_jobs_give_the_records_of_one_process_and_report_failures_and_warnings(cli, study_file, user_module):
    user_module("my_score", WARNS)
    arms = ["ticket", "deterministic", {"arm": "deterministic", "train": {"lr": 1e20}}]
    prune = {"levels": 1, "score": "my_score:loudly"}
    path = study_file(STUDY | {"threads": 1, "seeds": [0], "arms": arms, "prune": prune})
    results = [cli("run", path, "--out", f"{jobs}/small", "--jobs", jobs) for jobs in (1, 2)]
    for result in results:
        assert result.exit_code == 1, result.output
        assert "lower train.lr (1e+20)" in result.output
        assert "has died" not in result.output
        assert "seed 0: this is a guess" in result.output
    one, two = (pd.read_parquet(f"{jobs}/small/records.parquet").drop(columns=names("timing")) for jobs in (1, 2))
    assert len(two) == 4
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert set(names("environment")) <= set(two.columns)


@pytest.mark.parametrize("end", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_workers_end_with_the_first_process_however_that_ends(end, study_file, tmp_path):
    path = study_file(STUDY | {"threads": 1, "train": {"epochs": 100_000}})
    main = "import sys; sys.argv[0] = 'tombola'; from tombola.cli.app import main; main()"
    command = [sys.executable, "-c", main, "run", str(path), "--out", str(tmp_path / "out" / "small"), "--jobs", "2"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    unfinished = tmp_path / "out" / "tombola-stages" / "unfinished"

    def at_work():
        return [one.progress for one in seen(unfinished) if one.state == "running" and one.progress.done]

    wait_for(lambda: len(at_work()) == 2)
    pids = {progress.pid for progress in at_work()}
    assert len(pids) == 2
    assert first.pid not in pids
    first.send_signal(end)
    output, _ = first.communicate(timeout=30)
    wait_for(lambda: not at_work())
    if end == signal.SIGTERM:
        assert first.returncode == 143, output
        assert "the same command goes on" in output
    assert "Traceback" not in output
    assert {one.state for one in seen(unfinished)} == {"stopped"}


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_dying_worker_is_said_and_the_rest_is_done_by_the_others(tmp_path, study_file, cli, monkeypatch):
    from tombola.engine.workers import Workers

    alive, at_work = [], Workers.at_work

    def killing_one(self):
        alive[:] = self._alive
        working = [s.progress.pid for s in seen(tmp_path / "out" / "tombola-stages" / "unfinished") if s.progress.done]
        if len(self._alive) == 2 and working:
            os.kill(working[0], signal.SIGKILL)
            next(process for process in self._alive if process.pid == working[0]).wait()
        return at_work(self)

    monkeypatch.setattr(Workers, "at_work", killing_one)
    result = cli("run", study_file(STUDY | {"threads": 1}), "--out", "out/small", "--jobs", "2")
    assert "has died (SIGKILL)" in result.output
    assert result.exit_code == 0, result.output
    assert len(pd.read_parquet("out/small/records.parquet")) == 8


def test_threads_are_shared_among_jobs_unless_the_study_sets_them(cli, study_file, monkeypatch):
    from tombola.cli import run

    told = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.setattr(run, "calibrate", lambda *args: None)
    for jobs, threads in ((3, 0), (3, 5), (1, 5), (1, 0)):
        study = study_file(STUDY | ({"threads": threads} if threads else {}))
        cli("run", study, "--out", "out/small", "--dry-run", "--jobs", jobs)
    assert told == [2, 5, 5]
