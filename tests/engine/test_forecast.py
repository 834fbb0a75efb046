"""Forecasts: work times pace, exact where paces are constant; steps timed beforehand; the pace of what runs."""

import json
import math
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola.engine.budget import STEPS, calibrate, step_seconds
from tombola.engine.forecast import Forecast, Guesses
from tombola.engine.local import dataset
from tombola.engine.progress import Progress
from tombola.engine.store import Store
from tombola.engine.work import outline, work_of
from tombola.study.stages import Evaluate, Train

CPU = torch.device("cpu")


class Records:
    """A store of nothing but records: `seconds` by key."""

    def fetch(self, keys):
        """Nothing: all records are at hand."""

    def __init__(self, seconds, device="cpu"):
        self.seconds, self.device = seconds, device

    def done(self, key):
        return key in self.seconds

    def has_ticket(self, key):
        return True

    def has_mask(self, key):
        return False

    def record(self, key):
        return {"record": {}, "run": {"seconds": self.seconds[key], "device": self.device, "threads": 1}}


def trainings(plan):
    return [stage for stage in plan.stages if isinstance(stage, Train)]


@pytest.fixture(scope="module")
def plan():
    from tombola.study.plan import plan_study
    from tombola.study.spec import unfold

    raw = {
        "name": "several",
        "seeds": [0, 1],
        "data": {"name": "digits", "args": {"validation": 0, "test": 1500}},
        "model": [{"name": "mlp", "args": {"hidden": [8]}}, {"name": "mlp", "args": {"hidden": [16]}}],
        "train": {"epochs": 2, "batch_size": 64},
        "prune": {"levels": 2, "rewind": "epoch:1"},
        "evaluate": {"samples": 3},
        "arms": ["ticket", "deterministic", "transplant", "reinit"],
    }
    return plan_study(unfold(raw), dataset)


def seconds_of(stage):
    """A world of constant paces: what a stage takes. 297 examples in batches of 64, 1,500 held out."""
    if isinstance(stage, Train):
        pace = {"vi": 0.5, "map": 0.25}[stage.settings.method] * (1 if "16" in stage.net.identity else 3)
        start, stop = (5 if at == "epoch:1" else 0 for at in (stage.start, stage.stop))
        steps = (stop or 10) - start
        return pace * (steps + steps / 5 * 1500 / 64 / 3)  # an epoch ends with a third of a step for each held-out batch
    if isinstance(stage, Evaluate):
        return 7.0 if "16" in stage.net.identity else 9.0
    return 0.125


@given(st.data())
def test_a_forecast_is_exact_where_paces_are_constant(plan, data):
    """As soon as one stage of each kind is done, whichever: what is left is what the others take."""
    kinds = {}
    for stage in plan.stages:
        method = getattr(stage, "train", getattr(stage, "settings", None))
        kind = (stage.kind, stage.net.identity, method.method) if isinstance(stage, Train | Evaluate) else stage.kind
        kinds.setdefault(kind, []).append(stage)
    done = {data.draw(st.sampled_from(stages)).key for stages in kinds.values()}
    done |= data.draw(st.sets(st.sampled_from([stage.key for stage in plan.stages])))
    takes = {stage.key: seconds_of(stage) for stage in plan.stages}
    forecast = Forecast(outline(plan, dataset), Records({key: takes[key] for key in done}))
    rest = [stage for stage in plan.stages if stage.key not in done]
    assert forecast.left() == pytest.approx(sum(takes[stage.key] for stage in rest))
    while rest:
        stage = rest.pop()
        forecast.drop(stage, takes[stage.key])
        assert forecast.left() == pytest.approx(sum(takes[stage.key] for stage in rest), abs=1e-6)


def test_no_forecast_before_a_training_was_timed_and_none_of_another_device(plan):
    first = trainings(plan)[0]
    assert Forecast(outline(plan, dataset), Records({})).left() is None
    init = plan.stages[0]
    assert Forecast(outline(plan, dataset), Records({init.key: 0.1})).left() is None
    store = Records({stage.key: 1.0 for stage in trainings(plan)[:-1]}, device="a GPU")
    assert Forecast(outline(plan, dataset), store).left() is not None
    assert Forecast(outline(plan, dataset), store, ("a GPU", 1)).left() is not None
    assert Forecast(outline(plan, dataset), store, ("cpu", 1)).left() is None
    assert first.kind == "train"


def test_a_guess_serves_until_a_stage_was_timed(tiny, plan_of):
    """Dense and one level: two trainings of 10 steps and 2 epochs, each epoch's end and each evaluation sample 1500/192."""
    plan = plan_of(tiny)
    forecast = Forecast(outline(plan, dataset), Records({}))
    ((kind, example),) = forecast.untimed().items()
    assert example.key in {stage.key for stage in trainings(plan)}
    forecast.guesses[kind] = 2.0
    assert forecast.untimed() == {}
    pass_ = 1500 / 192
    assert forecast.left() == pytest.approx(2.0 * (2 * (10 + 2 * pass_) + 2 * 2 * pass_))
    forecast.drop(plan.stages[0], 0.0)
    forecast.drop(trainings(plan)[0], 10 + 2 * pass_)  # one second a step
    assert forecast.left() == pytest.approx(10 + 2 * pass_ + 2 * 2 * pass_)


def test_several_processes_divide_what_is_left_but_end_no_sooner_than_what_they_run(tiny, plan_of):
    plan = plan_of(tiny | {"train": {"epochs": 20, "batch_size": 64}, "seeds": [0, 1]})
    forecast = Forecast(outline(plan, dataset), Records({}))
    ((kind, _),) = forecast.untimed().items()
    forecast.guesses[kind] = 2.0
    assert forecast.left(processes=2) == pytest.approx(forecast.left() / 2)
    running = at_work(trainings(plan)[0], 1, 100, 0.0)
    assert forecast.left([running], processes=1000) == pytest.approx(forecast.stage_left(running))
    assert forecast.left([running], processes=2) == pytest.approx(forecast.left([running]) / 2)


def at_work(stage, done, total, seconds, first=0, epochs=0):
    progress = Progress(key=stage.key, done=done, total=total)
    progress.timed_steps, progress.timed_seconds, progress.timed_epochs = done - first, seconds, epochs
    return progress


def test_what_runs_is_forecast_at_its_own_pace(tiny, plan_of):
    plan = plan_of(tiny | {"train": {"epochs": 20, "batch_size": 64}, "prune": {"levels": 0}})
    (stage,) = trainings(plan)
    forecast = Forecast(outline(plan, dataset), Records({}))
    pass_ = 1500 / 192
    assert forecast.left([at_work(stage, 1, 100, 0.0)]) is None  # its first step has no pace
    progress = at_work(stage, 41, 100, 80.0, first=1)  # of 40 steps, no epoch's end yet: 2 s each
    whole, done = 100 + 20 * pass_, 0.41 * (100 + 20 * pass_)
    assert forecast.stage_left(progress) == pytest.approx(2 * (whole - done))
    assert forecast.left([progress]) == pytest.approx(2 * (whole - done + 2 * pass_))  # and its evaluation
    progress = at_work(stage, 41, 100, 40 + 8 * pass_, first=1, epochs=8)  # 1 s each, eight ends included
    assert forecast.stage_left(progress) == pytest.approx(whole - done)
    forecast.drop(stage)
    assert forecast.stage_left(progress) is None


def test_a_running_evaluation_is_forecast_by_the_clock(tiny, plan_of):
    plan = plan_of(tiny | {"prune": {"levels": 0}})
    (stage,) = (stage for stage in plan.stages if isinstance(stage, Evaluate))
    forecast = Forecast(outline(plan, dataset), Records({s.key: 1.0 for s in plan.stages if s is not stage}))
    whole = forecast.left()  # priced by the training's steps
    begun = Progress(key=stage.key, stage_since=time.time() - whole / 4)
    assert forecast.stage_left(begun) == pytest.approx(0.75 * whole, rel=0.05)
    assert forecast.left([begun]) == pytest.approx(0.75 * whole, rel=0.05)
    late = Progress(key=stage.key, stage_since=time.time() - 9 * whole)
    assert forecast.left([late]) == 0


def test_trainings_of_a_store_give_the_pace_of_all_their_sittings(tiny, plan_of, run_plan):
    """A training's own seconds, which a resumed one carries on, rather than those of its last sitting."""
    plan = plan_of(tiny)
    store, _, _ = run_plan(plan)
    for stage in plan.stages:
        path = store.root / stage.key / "record.json"
        record = json.loads(path.read_text())
        record["run"]["seconds"] = 1e-9
        if isinstance(stage, Train):
            record["record"]["train_seconds"] = 50.0
        path.write_text(json.dumps(record))
    store.discard(trainings(plan)[1].key)
    assert Forecast(outline(plan, dataset), Store(store.root)).left() == pytest.approx(50)


@pytest.mark.parametrize(
    ("rewind", "steps"), [("init", [10, 10]), ("epoch:1", [10, 5, 5]), ("step:3", [10, 3, 7]), ("epoch:0", [10, 0, 10])]
)
def test_work_is_counted_in_steps(rewind, steps, tiny, plan_of):
    """297 examples in batches of 64: five steps an epoch, the last of 41."""
    assert math.ceil(297 / 64) == 5
    plan = plan_of(tiny | {"prune": {"levels": 1, "rewind": rewind}})
    assert [work_of(stage, dataset) for stage in trainings(plan)] == steps
    assert {work_of(stage, dataset) for stage in plan.stages if stage.kind != "train"} == {1}
    assert Forecast(outline(plan, dataset), Records({stage.key: 1.0 for stage in plan.stages})).left() == 0


SLEEPS = """
import time
import torch

class Slow(torch.nn.Module):
    def __init__(self, outputs, seconds):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.Linear(8, outputs))
        self.seconds = seconds

    def forward(self, x):
        if self.training:
            time.sleep(self.seconds)
        return self.body(x)

def slow(input_shape, outputs, seconds):
    return Slow(outputs, seconds)

def broken(input_shape, outputs):
    class Broken(Slow):
        def forward(self, x):
            raise RuntimeError("not today")
    return Broken(outputs, 0)
"""


def test_a_few_steps_tell_the_pace_and_leave_no_trace(tiny, plan_of, user_module, monkeypatch):
    """On a clock that only the model's sleep moves: the first step and a few more are made, and none other."""
    user_module("sleepy", SLEEPS)
    plan = plan_of(tiny | {"model": {"name": "sleepy:slow", "args": {"seconds": 0.05}}})
    torch.manual_seed(3)
    before, slept = torch.get_rng_state(), []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(slept))
    forecast = Forecast(outline(plan, dataset), Records({}))
    guesses = calibrate(forecast, plan.stages, CPU, dataset, Guesses())
    assert len(slept) == 1 + STEPS
    assert torch.equal(torch.get_rng_state(), before)
    assert list(guesses.seconds.values()) == pytest.approx([0.05])
    assert forecast.left() >= 20 * 0.05


def test_a_model_that_cannot_be_trained_has_no_pace(tiny, plan_of, user_module):
    user_module("sleepy", SLEEPS)
    plan = plan_of(tiny | {"model": {"name": "sleepy:broken"}})
    assert step_seconds(trainings(plan)[0], CPU, dataset) is None


def test_guesses_survive_a_file_and_a_damaged_one_is_none(tmp_path, tiny, plan_of):
    plan, path = plan_of(tiny), tmp_path / "forecast.json"
    forecast = Forecast(outline(plan, dataset), Records({}))
    guesses = calibrate(forecast, plan.stages, CPU, dataset, Guesses())
    guesses.write(path)
    assert Guesses.read(path) == guesses
    again = Forecast(outline(plan, dataset), Records({}))
    Guesses.read(path).give(again, None)
    assert again.left() == forecast.left()
    other = Forecast(outline(plan, dataset), Records({}))
    Guesses.read(path).give(other, ("a GPU", 1))
    assert other.left() is None
    for text in ("", "{", "[]", '{"where": 3}', '{"where": ["cpu", 1], "seconds": [1]}', path.read_text()[:-9]):
        path.write_text(text)
        assert Guesses.read(path) == Guesses()
    assert Guesses.read(tmp_path / "nowhere") == Guesses()
