"""Progress files: what a process says of itself, who still runs, and what does not count."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from tombola.engine.progress import Progress, ProgressFile, forget_stopped, seen
from tombola.study.plan import names_of


def test_a_file_is_there_while_its_process_runs_and_says_what_it_does(tmp_path):
    with ProgressFile(tmp_path, Progress(study="mine")) as file:
        file.progress.begin("key", "train vi")
        file.progress.step(3, 10)
        file.write(at_once=True)
        (one,) = seen(tmp_path)
        assert one.state == "running"
        assert (one.progress.study, one.progress.key, one.progress.done, one.progress.total) == ("mine", "key", 3, 10)
        assert (one.progress.pid, one.progress.host) == (os.getpid(), socket.gethostname())
        file.progress.key = ""  # the stage has ended
    assert list(tmp_path.iterdir()) == []


def test_two_runs_of_one_process_have_a_file_each(tmp_path):
    with ProgressFile(tmp_path, Progress()), ProgressFile(tmp_path, Progress()):
        assert len(seen(tmp_path)) == 2


def test_it_is_written_every_two_seconds_at_most(tmp_path):
    with ProgressFile(tmp_path, Progress()) as file:
        file.progress.begin("key", "train vi")
        file.write(at_once=True)
        began, versions = time.monotonic(), set()
        while time.monotonic() - began < 0.5:
            file.progress.step(file.progress.done + 1, 10**9)
            file.write()
            versions.add(next(tmp_path.glob("*.progress")).stat().st_ino)
        assert len(versions) == 1
        assert file.progress.done > 100


def test_another_stage_is_written_sooner(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with ProgressFile(tmp_path, Progress()) as file:
        file.progress.begin("one", "train vi")
        file.write(at_once=True)
        file.progress.begin("two", "train vi")
        shown = []
        for now[0] in (100.1, 100.2, 100.3, 101.0, 102.2, 102.4):
            file.progress.done += 1
            file.write()
            shown.append((seen(tmp_path)[0].progress.key, seen(tmp_path)[0].progress.done))
    assert shown == [("one", 0), ("one", 0), ("two", 3), ("two", 3), ("two", 3), ("two", 6)]


def test_an_interrupted_stage_is_told_of_until_it_goes_on(tmp_path):
    def interrupted():
        with ProgressFile(tmp_path, Progress()) as file:
            file.progress.begin("key", "train vi")
            file.progress.step(43, 100)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    (one,) = seen(tmp_path)
    assert (one.state, one.progress.done) == ("stopped", 43)
    forget_stopped(tmp_path, {"another"})
    assert len(seen(tmp_path)) == 1
    forget_stopped(tmp_path, {"key"})
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from tombola.engine.progress import Progress, ProgressFile
with ProgressFile(Path(sys.argv[1]), Progress()) as file:
    file.progress.begin("key", "train vi")
    file.progress.step(43, 100)
    file.write(at_once=True)
    print("there", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_has_stopped_at_once(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"there\n"
    (one,) = seen(tmp_path)
    assert (one.state, one.progress.pid) == ("running", process.pid)
    process.kill()
    process.communicate()
    (one,) = seen(tmp_path)
    assert (one.state, one.progress.done) == ("stopped", 43)


def test_a_process_of_another_machine_is_silent_after_a_minute(tmp_path):
    written = {**vars(Progress(host="elsewhere", key="key"))}
    written.pop("_first")
    for updated, state in ((time.time(), "running"), (time.time() - 61, "silent")):
        (tmp_path / "elsewhere.1.0.progress").write_text(json.dumps(written | {"updated": updated}))
        assert [one.state for one in seen(tmp_path)] == [state]


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "{}", '{"key": "x"}', '{"pid": "one"}'])
def test_a_damaged_file_is_passed_over(text, tmp_path):
    (tmp_path / "host.1.0.progress").write_text(text)
    (tmp_path / "host.2.0.progress").mkdir()
    assert seen(tmp_path) == []


def test_values_of_a_wrong_kind_are_damage(tmp_path):
    good = {**vars(Progress())}
    good.pop("_first")
    for name, value in (("pid", "7"), ("done", 1.5), ("since", None), ("loss", "low"), ("more", 1)):
        (tmp_path / "host.1.0.progress").write_text(json.dumps(good | {name: value}))
        assert seen(tmp_path) == [], name


def test_pace_leaves_out_the_first_step_and_what_was_done_before(monkeypatch):
    """Resumed at step 50; the first step takes 5 s, each further one 2 s."""
    clock = iter([5.0, 7.0, 9.0, 11.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    progress = Progress()
    progress.begin("key", "train vi")
    assert progress.steps_per_second is None
    progress.step(51, 100)
    assert progress.steps_per_second is None
    for done in (52, 53, 54):
        progress.step(done, 100)
    assert progress.steps_per_second == 0.5


def test_names_say_curve_level_and_seed(tiny, plan_of):
    arms = ["reinit", "ticket", {"arm": "shuffle_even"}]
    plan = plan_of(tiny | {"arms": arms, "seeds": [4], "prune": {"fraction": 0.5, "levels": 1, "rewind": "epoch:1"}})
    named = [names_of(plan)[stage.key] for stage in plan.stages]
    assert len(named) == len(plan.stages)
    assert "train vi · ticket (snr), rewind epoch:1 · level 1 · seed 4" in named
    assert "train vi · re-init (snr), rewind epoch:1 · level 1 · seed 4" in named
    assert "evaluate · even shuffle (snr), rewind epoch:1 · level 1 · seed 4" in named
    assert "train vi · ticket (snr), rewind epoch:1 +2 · level 0 · seed 4" in named  # three curves need it
    assert "prune · ticket (snr), rewind epoch:1 +2 · level 1 · seed 4" in named
    assert len([name for name in named if name.startswith("train vi to epoch:1 · ")]) == 1


def test_names_tell_variants_and_models_apart(tiny, plan_of):
    plan = plan_of(tiny | {"train": {"epochs": 1, "lr": [0.01, 0.02]}, "prune": {"levels": 0}})
    named = set(names_of(plan).values())
    assert {f"evaluate · ticket (snr) · train.lr={lr} · level 0 · seed 0" for lr in (0.01, 0.02)} <= named
