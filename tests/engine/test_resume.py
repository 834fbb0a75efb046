"""A run that is killed at any moment goes on with the same command and ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from tombola import files
from tombola.engine.progress import Watcher, seen
from tombola.engine.records import collect
from tombola.engine.sigterm import Terminated
from tombola.engine.store import Store, missing
from tombola.metrics.columns import names
from tombola.pruning.ticket import load
from tombola.study.stages import Train

STUDY = {
    "name": "small",
    "seeds": [0],
    "threads": 1,
    "checkpoint_seconds": 0.05,  # so that trainings are cut in the middle, too
    "data": {"name": "digits", "flip": True, "crop": 1},
    "model": {"name": "conv", "args": {"widths": [8, 16], "batch_norm": True}},
    "train": {"epochs": 4, "batch_size": 32, "lr": 0.005, "schedule": "one_cycle"},
    "prune": {"levels": 1, "fraction": 0.6, "rewind": "epoch:1"},
    "evaluate": {"samples": 4},
    "arms": ["ticket", "deterministic", "transplant", "reinit", "shuffle_even"],
}


DRIVER = """
import json, os, random, signal, sys, time
from pathlib import Path
import pandas, pyarrow.parquet, torch, tombola.cli.run, tombola.report
from tombola.cli.app import main

tombola.report.write_report = lambda records, study, out, **more: out  # no page: it takes as long as the trainings
torch.optim.Adam([torch.zeros(1)])  # imports a thousand modules
study, whole, cuts, wanted, ends, seed = sys.argv[1:]
wanted, ends = int(wanted), [signal.Signals[name] for name in ends.split()]

def start(out):
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["tombola", "run", study, "--out", out, "--device", "cpu"]
        main()
        os._exit(99)  # main leaves by SystemExit
    return pid

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

began = time.monotonic()
assert ended(start(whole)) == 0
took = time.monotonic() - began

draw, kills = random.Random(int(seed)), []
while len(kills) < wanted:  # each time in a new store, until a run gets to its end
    out = Path(cuts) / str(len(kills)) / "small"
    while len(kills) < wanted or not any(kill["in_training"] for kill in kills):
        pid, end = start(str(out)), ends[len(kills) % len(ends)]
        time.sleep(draw.uniform(0.05, 0.4) * took)  # a tenth of it is the start of a process
        os.kill(pid, end)  # if it has ended, it is still there to be waited for
        code = ended(pid)
        if code == 0:
            break
        # SIGTERM before the command begins, or after its end, ends a process as it does any other
        assert code in ((-9,) if end == signal.SIGKILL else (-15, 143)), code
        stages = out.parent / "tombola-stages"
        unfinished = [path for path in stages.glob("unfinished/*.checkpoint")]
        done = len(list(stages.glob("*/record.json")))
        kills.append({"store": str(stages), "done": done, "in_training": bool(unfinished)})
        assert len(kills) < 10 * wanted, "no kill has met a training with a checkpoint"
    assert ended(start(str(out))) == 0
print(json.dumps(kills))
"""
"""Runs `tombola run` whole, then kills it again and again and lets it end: in forks, which do not import torch each time."""


HUNDRED = [pytest.param(5, "SIGKILL SIGTERM", seed, marks=pytest.mark.slow) for seed in range(20)]  # in parts of a minute


@pytest.mark.parametrize(("times", "ends", "seed"), [(5, "SIGKILL", 18), *HUNDRED])
def test_a_run_killed_at_any_instant_ends_with_the_same_bits(times, ends, seed, tmp_path: Path):
    study = tmp_path / "small.yaml"
    study.write_text(yaml.safe_dump(STUDY))
    whole, cuts = tmp_path / "whole" / "small", tmp_path / "cuts"
    driver = [sys.executable, "-c", DRIVER, study, whole, cuts, str(times), ends, str(seed)]
    driven = subprocess.run(driver, check=True, stdout=subprocess.PIPE, text=True)
    kills = json.loads(driven.stdout)
    assert len(kills) >= times
    assert any(kill["in_training"] for kill in kills)
    stores = list(dict.fromkeys(kill["store"] for kill in kills))
    for store in stores:
        done = [kill["done"] for kill in kills if kill["store"] == store]
        assert done == sorted(done)  # nothing that was finished is lost
        check_same(whole, Path(store).parent / "small")


def check_same(whole: Path, cut: Path) -> None:
    """Compare records and tickets of two studies, each with a store of its own."""
    differing = names("timing", "environment")
    tables = [pd.read_parquet(folder / "records.parquet").drop(columns=differing) for folder in (whole, cut)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)

    stores = [folder.parent / "tombola-stages" for folder in (whole, cut)]
    tickets = [sorted(path.relative_to(store) for path in store.glob("*/ticket.safetensors")) for store in stores]
    assert tickets[0] == tickets[1]
    assert len(tickets[0]) > 12
    for path in tickets[0]:
        a, b = (load(store / path) for store in stores)
        assert torch.equal(a.mask, b.mask)
        for one, other in ((a.rewind, b.rewind), (a.trained, b.trained)):
            assert (one is None) == (other is None)
            for name, value in one.tensors().items() if one else ():
                assert torch.equal(value, other.tensors()[name]), (path, name)


class Stops(Watcher):
    """A watcher that stops the run at a step of its first training."""

    def __init__(self, at):
        self.at, self.said_of = at, []

    def stepped(self, stage, done, total):
        if done == self.at:
            raise KeyboardInterrupt

    def said(self, sentence):
        self.said_of.append(sentence)


class Terminates(Watcher):
    """A watcher that sends this process SIGTERM, in the first training at a step, else as a stage of a kind begins."""

    def __init__(self, kind, at=0):
        self.kind, self.at = kind, at

    def began(self, stage, progress):
        if stage.kind == self.kind and not self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def stepped(self, stage, done, total):
        if done == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_saves_a_checkpoint_after_the_step_and_ends_the_run(tiny, plan_of, run_plan, tmp_path):
    plan, store = plan_of(tiny), Store(tmp_path / "stages")
    training = next(stage for stage in plan.stages if isinstance(stage, Train))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated):
        run_plan(plan, watcher=Terminates("train", at=7))
    assert signal.getsignal(signal.SIGTERM) is before
    _, description = files.read(store.checkpoint_path(training.key))
    assert description["step"] == 7
    assert [(one.state, one.progress.done) for one in seen(store.unfinished)] == [("stopped", 7)]
    assert not run_plan(plan)[2].failures
    assert missing(plan, store) == []


def test_sigterm_ends_a_stage_without_checkpoints_at_once(tiny, plan_of, run_plan, tmp_path):
    plan, store = plan_of(tiny), Store(tmp_path / "stages")
    with pytest.raises(Terminated):
        run_plan(plan, watcher=Terminates("prune"))
    assert {stage.kind for stage in missing(plan, store)} >= {"prune"}
    assert not run_plan(plan)[2].failures


def without(part):
    """Change a checkpoint's tensors: all of this part are lost."""
    return lambda tensors: {name: value for name, value in tensors.items() if not name.startswith(part)}


def narrower(tensors):
    return {name: value[:1] if value.ndim else value for name, value in tensors.items()}


@pytest.mark.parametrize("change", [without("losses"), without("state"), narrower])
def test_a_checkpoint_that_does_not_fit_starts_its_stage_anew(change, tiny, plan_of, run_plan, tmp_path):
    plan = plan_of(tiny)
    whole, _, _ = run_plan(plan, "whole")
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, watcher=Stops(at=7), checkpoint_seconds=0.0)
    training = next(stage for stage in plan.stages if isinstance(stage, Train))
    path = Store(tmp_path / "stages").checkpoint_path(training.key)
    tensors, description = files.read(path)
    files.write(path, change(tensors), description)
    watcher = Stops(at=0)
    store, _, engine = run_plan(plan, watcher=watcher)
    assert not engine.failures
    assert [s for s in watcher.said_of if "starts anew: its checkpoint does not fit (" in s]
    timing = names("timing")
    pd.testing.assert_frame_equal(collect(plan, store).drop(columns=timing), collect(plan, whole).drop(columns=timing))
