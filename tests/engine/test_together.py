"""Several processes at each training of a study: the records of one, whatever dies, and refusals in a sentence."""

import os
import signal
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tombola.engine.folder import StudyFolder
from tombola.engine.progress import Watcher
from tombola.engine.records import collect
from tombola.engine.store import Store
from tombola.engine.together import Together
from tombola.metrics.columns import names
from tombola.study.stages import Train

# not imported here: that takes four seconds, and these processes of tests do not need it
pytestmark = pytest.mark.skipif(find_spec("lightning_fabric") is None, reason="lightning_fabric is not installed")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # float32: sums in another order, over ten steps


class At(Watcher):
    """A watcher that does something at a step of the first training, once."""

    def __init__(self, step, do):
        self.step, self.do, self.said_of = step, do, []

    def stepped(self, stage, done, total):
        if done == self.step and self.do:
            do, self.do = self.do, None
            do()

    def said(self, sentence):
        self.said_of.append(sentence)


def interrupt():
    raise KeyboardInterrupt


def assert_same_but_for_sums(plan, one, other):
    """Records are close, and the trained weights close but not equal, which they are only if the steps were shared."""
    first, second = (collect(plan, store).drop(columns=names("timing")) for store in (one, other))
    numbers = first.select_dtypes("number").columns
    np.testing.assert_allclose(first[numbers], second[numbers], equal_nan=True, **CLOSE)
    pd.testing.assert_frame_equal(first.drop(columns=numbers), second.drop(columns=numbers))
    training = next(stage for stage in plan.stages if isinstance(stage, Train))
    means = [store.ticket(training.key).posterior.mean for store in (one, other)]
    assert not torch.equal(*means)
    torch.testing.assert_close(*means, **CLOSE)


@pytest.mark.usefixtures("quick_pages")
def test_two_processes_go_on_with_the_checkpoint_of_one_and_give_its_records(cli, tiny, study_file, plan_of, run_plan):
    plan = plan_of(tiny)
    whole, _, _ = run_plan(plan, "whole")
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, "shared", watcher=At(4, interrupt), checkpoint_seconds=0.0)
    result = cli("run", study_file(tiny), "--out", "out/tiny", "--store", "shared", "--devices", "2")
    assert result.exit_code == 0, result.output
    store, _, _ = run_plan(plan, "shared")
    assert_same_but_for_sums(plan, whole, store)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_pages")
@pytest.mark.parametrize("options", [["--jobs", "2"], ["--engine", "slurm", "--slurm", "cluster=local", "--jobs", "1"]])
def test_workers_and_jobs_have_several_processes_at_each_training_too(options, cli, tiny, study_file, plan_of, run_plan):
    study = tiny | {"threads": 1}
    plan = plan_of(study)
    whole, _, _ = run_plan(plan, "whole")
    result = cli("run", study_file(study), "--out", "out/tiny", "--store", "shared", "--devices", "2", *options)
    assert result.exit_code == 0, result.output
    assert_same_but_for_sums(plan, whole, Store(Path("shared")))


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_of_a_training_is_replaced(end, tiny, plan_of, run_plan, tmp_path):
    """SIGTERM is left to the first process."""
    plan = plan_of(tiny)
    whole, _, _ = run_plan(plan, "whole")
    folder = StudyFolder.of(tiny, tmp_path / "tiny", tmp_path / "shared", tmp_path)
    folder.prepare()
    said = []
    together = Together(folder.path, torch.device("cpu"), 2, said.append)
    watcher = At(4, lambda: os.kill(together._others[0].popen.pid, end))
    store, _, engine = run_plan(plan, "shared", watcher=watcher, checkpoint_seconds=0.0, together=together)
    assert not engine.failures
    assert said == (["a process of a training has died (SIGKILL); it resumes its checkpoint"] * (end == signal.SIGKILL))
    assert_same_but_for_sums(plan, whole, store)


@pytest.mark.slow
def test_a_training_that_fails_in_all_processes_fails_once(tiny, plan_of, run_plan, tmp_path):
    raw = tiny | {"train": tiny["train"] | {"lr": 1e20}}
    folder = StudyFolder.of(raw, tmp_path / "tiny", tmp_path / "stages", tmp_path)
    folder.prepare()
    together = Together(folder.path, torch.device("cpu"), 2, pytest.fail)
    _, _, engine = run_plan(plan_of(raw), together=together)
    (sentence,) = filter(None, engine.failures.values())
    assert "lower train.lr (1e+20)" in sentence


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"method": "sgld", "keep": 2}, [], "method sgld makes more of its steps than averaged gradients"),
        ({"estimator": "flipout"}, [], "estimator flipout draws noise for each example"),
        ({}, ["--engine", "ray"], "leave --engine ray out"),
        ({}, ["--concurrent", "2"], "leave --concurrent out"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_anything_runs(cli, tiny, study_file, change, options, said, tmp_path):
    path = study_file(tiny | {"train": tiny["train"] | change})
    result = cli("run", path, "--out", "out/tiny", "--devices", "2", *options)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()
