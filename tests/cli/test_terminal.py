"""What the terminal shows: facts of a picture, of a run as it goes on, and of one that another process runs."""

import io
import json
import re
import shutil
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tombola.cli.terminal import ConsoleWatcher, Finished, Follower, Picture, Running, draw, duration, shown, until
from tombola.engine.folder import StudyFolder
from tombola.engine.local import LocalEngine, dataset
from tombola.engine.progress import Progress
from tombola.engine.store import Store
from tombola.engine.work import outline


def printed(picture, width=80, height=20, color=False):
    console = Console(width=width, height=height, force_terminal=True, file=io.StringIO(), legacy_windows=False)
    console.print(draw(picture, width, height))
    text = console.file.getvalue()
    return text if color else re.sub(r"\x1b\[[0-9;]*m", "", text)


def progress(name="train vi · ticket (snr) +3 · level 3 · seed 1", done=43, total=100, **more):
    made = Progress(key="key", name=name, done=done, total=total, stage_since=1000.0, updated=1030.0, pid=77, host="far")
    for field, value in {"timed_steps": 40, "timed_seconds": 2.0, "loss": 0.52314, **more}.items():
        setattr(made, field, value)
    return made


def picture(**more):
    return Picture(
        **{
            "study": "mine",
            "stages": (12, 48),
            "steps": (300.0, 1200.0),
            "now": 1060.0,
            "since": 1000.0,
            "left": 240.0,
            "running": [Running(progress(), epoch=(5, 10), left=12.0, own=True)],
            "finished": [Finished("evaluate · ticket (snr) · level 2 · seed 1", 3.2, "accuracy 94.3%")],
            "curves": {"ticket (snr)": (2, 11), "re-init (snr)": (0, 10)},
            **more,
        }
    )


@pytest.mark.parametrize("width", [80, 120])
def test_a_picture_says_what_runs_how_far_and_how_long(width):
    shown = printed(picture(), width)
    for fact in (
        *("mine", "25%", "12/48 stages", "running for 60 s", "about 4 min left, until "),
        *("train vi · ticket (snr) +3 · level 3 · seed 1", "43%", "epoch 5/10", "loss 0.5231", "20 steps/s", "12 s left"),
        *("evaluate · ticket (snr) · level 2 · seed 1", "accuracy 94.3%", "3 s"),
    ):
        assert fact in shown, fact
    assert re.search(r"ticket \(snr\) +2/11 +re-init \(snr\) +0/10", shown)
    assert "pid" not in shown


def test_a_stage_of_another_process_says_which():
    assert "pid 77 on far" in printed(picture(running=[Running(progress(), epoch=(5, 10))]))


def test_a_stopped_stage_says_where_and_what_to_do():
    shown = printed(picture(running=[Running(progress(), "stopped", (5, 10))], since=None))
    assert re.search(r"stopped +train vi", shown)
    assert "43%  epoch 5/10 · the same command goes on" in shown
    assert "running for" not in shown


def test_words_on_the_left_are_whole_in_a_narrow_terminal():
    running = [Running(progress("x" * 150), "stopped", (5, 10))]
    assert re.search(
        "^stopped x.*\n {8}.* 43%  epoch 5/10.*\ndone    evaluate", printed(picture(running=running), 40), re.MULTILINE
    )


def test_a_silent_stage_says_since_when():
    assert "no word for 30 s" in printed(picture(running=[Running(progress(), "silent", (5, 10))]))


def test_without_a_forecast_the_picture_says_so():
    shown = printed(picture(left=None, running=[Running(progress(timed_steps=0), epoch=(1, 10), own=True)]))
    assert "no forecast of the time left yet" in shown
    assert "60 s so far" in shown


def test_failures_are_red_and_a_finished_study_has_no_time_left():
    shown = printed(picture(failed=["train map · deterministic: it diverged"]), color=True)
    assert re.search(r"\x1b\[31mtrain map · deterministic: it diverged", shown)
    shown = printed(picture(stages=(48, 48), steps=(1200.0, 1200.0), running=[], left=0.0))
    assert "100%  48/48" in shown
    assert "left" not in shown


texts = st.text(st.sampled_from("ab ·()"), min_size=1, max_size=150)


@given(
    st.integers(40, 200),
    st.integers(8, 60),
    st.lists(texts, max_size=30),
    st.lists(texts, max_size=5),
    st.dictionaries(texts, st.just((3, 1000)), max_size=60),
    st.lists(texts, max_size=10),
)
def test_a_picture_fits_the_terminal(width, height, failed, running, curves, finished):
    drawn = picture(
        failed=failed,
        running=[Running(progress(name), epoch=(5, 10)) for name in running],
        curves=curves,
        finished=[Finished(name, 1.0, "accuracy 94.3%") for name in finished],
    )
    lines = printed(drawn, width, height).splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_more_failures_than_fit_are_counted():
    shown = printed(picture(failed=[f"stage {i}" for i in range(30)], running=[]), height=10)
    there = [i for i in range(30) if re.search(rf"stage {i}\b", shown)]
    assert f"and {30 - len(there)} more" in shown
    assert len(there) > 3


def test_times_in_words(monkeypatch):
    words = [duration(s) for s in (0, 0.04, 0.31, 12.4, 89, 91, 5300, 5400, 86400, 3 * 86400)]
    assert words == ["0 s", "0 s", "0.3 s", "12 s", "89 s", "2 min", "88 min", "1.5 h", "24.0 h", "3.0 days"]
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert until(3600.0, 1_700_000_000.0) == "about 60 min left, until 23:13"  # 2023-11-14 22:13:20 UTC, a Tuesday
    assert until(86400.0, 1_700_000_000.0) == "about 24.0 h left, until Wed 22:13"
    assert until(10 * 86400.0, 1_700_000_000.0) == "about 10.0 days left, until 24 Nov 22:13"
    assert until(None, 0.0) == "no forecast of the time left yet"


# a run as it goes on


def run_watched(plan, root, **console):
    """Runs a plan with the watcher of a console; returns what was shown, without colours."""
    console = Console(file=io.StringIO(), **console)
    store = Store(root)
    follower = Follower(outline(plan, dataset), store, root / "forecast.json")
    with shown(console, follower.look) as turn:
        engine = LocalEngine(store, torch.device("cpu"), ConsoleWatcher(console, follower, turn))
        engine.run(plan)
    return engine, follower.look(), re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())


def test_a_run_in_a_terminal_is_drawn_and_counted(tiny, plan_of, tmp_path, monkeypatch):
    from tombola.cli.terminal import watchers

    seen, names = [], set()
    real = watchers.draw

    def watched(picture, width, height):
        seen.append(picture)
        names.update(one.progress.name for one in picture.running)
        return real(picture, width, height)

    monkeypatch.setattr(watchers, "draw", watched)
    monkeypatch.setattr(watchers, "_DRAWN_A_SECOND", 50.0)
    plan = plan_of(tiny | {"train": {"epochs": 15, "batch_size": 64}, "arms": ["ticket", "deterministic"]})
    _, last, shown = run_watched(plan, tmp_path / "stages", width=80, height=20, force_terminal=True)
    assert last.stages == (len(plan.stages), len(plan.stages))
    assert last.steps[0] == last.steps[1]
    assert last.left == pytest.approx(0, abs=1e-6)
    assert last.curves == {"ticket (snr)": (2, 2), "deterministic (magnitude)": (2, 2)}
    assert any(re.search(r"accuracy \d", one.result) for one in last.finished)
    assert not last.running
    assert [picture.stages[0] for picture in seen] == sorted(picture.stages[0] for picture in seen)
    assert any(name.startswith("train ") for name in names)
    assert "/15 · loss" in shown
    assert shown.count("\n") < 25 * len(seen)


def test_failures_are_said_above_and_what_builds_on_them_is_not_waited_for(tiny, plan_of, tmp_path):
    arms = ["deterministic", {"arm": "ticket", "train": {"lr": 1e9, "optimiser": "sgd"}}]
    engine, last, shown = run_watched(plan_of(tiny | {"arms": arms}), tmp_path / "stages", width=80, force_terminal=True)
    (failed,) = last.failed
    assert "the loss is" in failed
    assert failed in list(engine.failures.values())
    assert "train vi · ticket (snr), lr=1000000000.0, optimiser=sgd" in shown.replace("\n", "")
    assert last.left == pytest.approx(0, abs=1e-6)


def test_where_there_is_no_terminal_a_line_comes_now_and_then(tiny, plan_of, tmp_path, monkeypatch):
    from tombola.cli.terminal import watchers

    monkeypatch.setattr(watchers, "_SOON", 0.0)
    plan = plan_of(tiny)
    _, _, shown = run_watched(plan, tmp_path / "stages", width=200, force_terminal=False)
    lines = shown.splitlines()
    assert len(lines) > len(plan.stages)
    assert lines[-1].startswith(f"{len(plan.stages)} of {len(plan.stages)} stages done (100% of the steps)")
    assert any(re.search(r"now train vi · ticket \(snr\) · level 1 · seed 0 \(\d+%\)", line) for line in lines)


# from another terminal


@pytest.fixture
def elsewhere(tmp_path):
    """Starts `tombola run` of a study in another process."""
    started = []

    def start(study, folder):
        main = "import sys; sys.argv[0] = 'tombola'; from tombola.cli.app import main; main()"
        command = [sys.executable, "-c", main, "run", study, "--out", folder, "--device", "cpu"]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def test_status_and_report_while_another_process_runs_and_after_its_death(
    cli, elsewhere, tiny, study_file, tmp_path, monkeypatch
):
    from tombola.cli import commands

    monkeypatch.setattr(commands, "_WATCH_EVERY", 0.1)
    long = tiny | {"arms": ["deterministic", {"arm": "ticket", "train": {"epochs": 100_000}}], "checkpoint_seconds": 0.2}
    folder = tmp_path / "out" / "tiny"
    process = elsewhere(study_file(long), folder)
    stages = tmp_path / "out" / "tombola-stages"

    def trains():
        return any(
            '"train vi' in text and '"loss": 0' in text for text in map(text_of, stages.glob("unfinished/*.progress"))
        )

    wait_for(trains)
    shown = cli("status", folder).output
    assert re.search(r"now +train vi · ticket \(snr\), epochs=100000 · level 0 · seed 0 +pid (\d+)", shown)
    assert f"pid {process.pid} on " in shown
    assert re.search(r"epoch \d+/100000 · loss 0\.\d+ · [\d.e+]+ steps/s · .* left", shown)
    assert re.search(r"deterministic \(magnitude\) +2/2", shown)
    assert re.search(r"about [\d.]+ (min|h) left, until", shown)
    assert "nothing runs" not in shown

    assert cli("report", folder).exit_code == 0
    assert "unfinished" in (folder / "report.html").read_text()
    assert len(pd.read_parquet(folder / "records.parquet")) == 2

    looks, look = [], Follower.look

    def killing_at_the_third(self):
        looks.append(self)
        if len(looks) == 3:
            process.kill()
            process.wait()
        return look(self)

    monkeypatch.setattr(Follower, "look", killing_at_the_third)
    watched = cli("status", folder, "--watch").output
    assert len(looks) == 4  # two while it ran, one that saw its end, one for the last picture
    for text in (watched, cli("status", folder).output):
        assert re.search(r"stopped +train vi · ticket", text)
        assert "the same command goes on" in text
        assert "nothing runs now" in text

    path = study_file(long | {"arms": ["deterministic"]})  # what is left of it belongs to no stage of this one
    assert cli("run", path, "--out", folder).exit_code == 0
    shown = cli("status", folder).output
    assert "0 to run" in shown
    assert "stopped" not in shown


def text_of(path):
    try:
        return path.read_text()
    except OSError:
        return ""


def test_status_and_report_of_a_study_of_which_nothing_is_done(cli, tiny, tmp_path):
    study = StudyFolder.of(tiny, tmp_path / "out" / "tiny", None, tmp_path)
    study.prepare()
    folder = study.path
    described = json.loads((folder / "study.json").read_text())
    (tmp_path / "empty").mkdir()
    shutil.copy(folder / "plan.json", tmp_path / "empty")
    (tmp_path / "empty" / "study.json").write_text(json.dumps(described | {"stages": str(tmp_path / "no-stages")}))
    for arguments in (("status", "empty"), ("status", "empty", "--watch")):
        result = cli(*arguments)
        assert result.exit_code == 0
        assert "0/6 stages" in result.output
        assert "nothing runs now: 6 stages to run" in result.output
    assert cli("report", "empty").exit_code == 0
    assert "unfinished" in (tmp_path / "empty" / "report.html").read_text()
    assert not (tmp_path / "no-stages").exists()


@pytest.mark.usefixtures("quick_pages")
def test_status_survives_damage_and_shows_failures(cli, tiny, study_file, tmp_path):
    arms = ["deterministic", {"arm": "ticket", "train": {"lr": 1e9, "optimiser": "sgd"}}]
    assert cli("run", study_file(tiny | {"arms": arms}), "--out", "out/tiny").exit_code == 1
    stages = tmp_path / "out" / "tombola-stages"
    (stages / "unfinished" / "host.1.0.progress").write_text("{")
    (tmp_path / "out" / "tiny" / "forecast.json").write_text("nonsense")
    shown = cli("status", "out/tiny").output
    assert re.search(r"train vi · ticket \(snr\).* failed: .*the loss is .*\(details in .*error\)", shown)
    assert "nothing runs now" in shown
    (log,) = stages.glob("unfinished/*.error")
    log.write_bytes(b"\xff\xfe\n")
    assert "failed" in cli("status", "out/tiny").output


def test_nonsense_is_refused_in_a_sentence(refused, tmp_path):
    (tmp_path / "file").write_text("x")
    for path in ("file", "nowhere", "."):
        for more in ((), ("--watch",)):
            assert "no study.json" in refused("status", path, *more)
