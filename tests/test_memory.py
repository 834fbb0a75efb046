"""Memory forecasts against what torch's profiler measures, and running out of memory."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import tombola
from tombola.allocations import Allocations, Peak, peak_of
from tombola.budget import Budget
from tombola.data import Dataset
from tombola.ingredients import Net, Source
from tombola.settings import (
    DataSettings,
    EvaluateSettings,
    ModelSettings,
    PosteriorSettings,
    PruneSettings,
    TrainSettings,
)
from tombola.stages import Evaluate, Init, Stage, Surroundings, Train
from tombola.streams import generator

CPU = torch.device("cpu")


def measured(path, run) -> int:
    """The most bytes alive that torch's CPU allocator gave out during `run`, by the profiler's record of each block."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    profiler.export_chrome_trace(str(path))
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    now, most, alive = 0, 0, set()
    for event in sorted(events, key=lambda event: event["ts"]):
        size, block = event["args"]["Bytes"], event["args"]["Addr"]
        if size < 0 and block not in alive:  # was there before
            continue
        (alive.add if size > 0 else alive.discard)(block)
        now += size
        most = max(most, now)
    return most


IMAGES = {"mlp": {"hidden": [256, 128]}, "resnet20": {"width": 8}, "vit": {"dim": 48, "depth": 2, "heads": 3}}
CASES = {
    "weight_sample": {},
    "ten samples": {"samples": 10},
    "log_expected": {"samples": 3, "objective": "log_expected"},
    "local": {"estimator": "local"},
    "flipout": {"estimator": "flipout"},
    "bf16": {"precision": "bf16"},
    "sgd": {"optimiser": "sgd"},
    "map": {"method": "map"},
}


def images(n=140) -> Dataset:
    stream = generator("memory test")
    inputs = torch.rand(2 * n, 3, 32, 32, generator=stream)
    targets = torch.randint(10, (2 * n,), generator=stream)
    targets[:10] = torch.arange(10)
    return Dataset("images", (inputs[:n], targets[:n]), (inputs[:0], targets[:0]), (inputs[n:], targets[n:]))


def stages(name: str, changes: dict, evaluate: dict | None = None) -> tuple[Init, Train, Evaluate]:
    net = Net(ModelSettings(name=name, args=IMAGES[name]), (3, 32, 32), 10)
    source, train = Source(DataSettings(), "images"), TrainSettings(**{"epochs": 1, "batch_size": 70, **changes})
    init = Init(net=net, posterior=PosteriorSettings(), prune=PruneSettings(), seed=0)
    training = Train(parents=(init,), net=net, source=source, settings=train, seed=0)
    measure = EvaluateSettings(**(evaluate or {}))
    return init, training, Evaluate(parents=(training,), net=net, source=source, settings=measure, train=train, seed=0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", IMAGES)
def test_a_training_needs_what_was_forecast(name: str, case: str, tmp_path):
    data = images()
    init, training, _ = stages(name, CASES[case])
    around = Surroundings(CPU, lambda _: data)
    found = measured(tmp_path / "trace.json", lambda: training.run([init.run([], around).ticket], around))
    forecast = Budget([training], CPU, lambda _: data).of(training)
    assert forecast is not None
    print(name, case, found / 1e6, forecast, forecast.weights + forecast.activations)
    assert 0.75 * found < forecast.total < 1.25 * found


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("evaluate", [{"batch_size": 64, "samples": 3}, {"samples": 50}])
def test_an_evaluation_needs_what_was_forecast(name: str, evaluate: dict, tmp_path):
    data = images()
    init, training, evaluation = stages(name, {}, evaluate)
    around = Surroundings(CPU, lambda _: data)
    start = init.run([], around).ticket
    trained = replace(start, trained=start.rewind)
    found = measured(tmp_path / "trace.json", lambda: evaluation.run([trained], around))
    forecast = Budget([evaluation], CPU, lambda _: data).of(evaluation)
    assert forecast is not None
    print(name, found / 1e6, forecast)
    assert 0.75 * found < forecast.total < 1.35 * found
