"""Memory forecasts against what torch's profiler measures, and running out of memory."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import tombola
from tombola.data import Dataset
from tombola.engine.budget import Budget
from tombola.settings import DataSettings, EvaluateSettings, ModelSettings, PosteriorSettings, PruneSettings, TrainSettings
from tombola.streams import generator
from tombola.study.stages import Evaluate, Init, RunContext, Train
from tombola.study.stages.base import Net, Source
from tombola.training.memory import Allocations, in_words, peak_of

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


IMAGES = {"mlp": {"hidden": [128]}, "resnet": {"depth": 8, "width": 8}, "vit": {"dim": 48, "depth": 2, "heads": 3}}
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


def images(n=96) -> Dataset:
    stream = generator("memory test")
    inputs = torch.rand(2 * n, 3, 32, 32, generator=stream)
    targets = torch.randint(10, (2 * n,), generator=stream)
    targets[:10] = torch.arange(10)
    return Dataset("images", (inputs[:n], targets[:n]), (inputs[:0], targets[:0]), (inputs[n:], targets[n:]))


def stages(name: str, changes: dict, evaluate: dict | None = None) -> tuple[Init, Train, Evaluate]:
    net = Net(ModelSettings(name=name, args=IMAGES[name]), (3, 32, 32), 10)
    source, train = Source(DataSettings(), "images"), TrainSettings(**{"epochs": 1, "batch_size": 48, **changes})
    init = Init(net=net, posterior=PosteriorSettings(), prune=PruneSettings(), seed=0)
    training = Train(parents=(init,), net=net, source=source, settings=train, seed=0)
    measure = EvaluateSettings(**(evaluate or {}))
    return init, training, Evaluate(parents=(training,), net=net, source=source, settings=measure, train=train, seed=0)


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    ("name", "case"), [(n, c) for n in IMAGES for c in CASES if n == "resnet" or c not in ("flipout", "bf16", "sgd")]
)
def test_a_training_needs_what_was_forecast(name: str, case: str, tmp_path):
    data = images()
    init, training, _ = stages(name, CASES[case])
    context = RunContext(CPU, lambda _: data)
    found = measured(tmp_path / "trace.json", lambda: training.run([init.run([], context).ticket], context))
    forecast = Budget([training], CPU, lambda _: data).of(training)
    assert forecast is not None
    assert 0.75 * found < forecast.total < 1.25 * found


EVALUATIONS = [(name, how) for name in IMAGES for how in ({"batch_size": 64, "samples": 3}, {"samples": 20})]


@pytest.mark.thinned(3)
@pytest.mark.parametrize(("name", "evaluate"), [*EVALUATIONS, ("mlp", {"samples": 200})])
def test_an_evaluation_needs_what_was_forecast(name: str, evaluate: dict, tmp_path):
    data = images()
    init, _, evaluation = stages(name, {}, evaluate)
    context = RunContext(CPU, lambda _: data)

    def run():
        start = init.run([], context).ticket
        evaluation.run([replace(start, trained=start.rewind.masked(start.mask))], context)

    found = measured(tmp_path / "trace.json", run)
    forecast = Budget([evaluation], CPU, lambda _: data).of(evaluation)
    assert forecast is not None
    assert 0.75 * found < forecast.total < 1.25 * found


def test_a_forecast_in_python_is_that_of_the_search(tmp_path):
    """`find_tickets` on tensors, and on a loader of the same; module and RNG stay as they were."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(600, 200), nn.BatchNorm1d(200), nn.ReLU(), nn.Linear(200, 3))
    stream = generator("python memory")
    inputs, targets = torch.randn(256, 600, generator=stream), torch.randint(3, (256,), generator=stream)
    train, prune = TrainSettings(epochs=1, batch_size=128), PruneSettings(levels=1)
    before, rng = [v.clone() for v in module.state_dict().values()], torch.get_rng_state()
    forecast = tombola.forecast_memory(module, (inputs, targets), train=train, prune=prune)
    assert forecast.data == inputs.nbytes + targets.nbytes
    loader = [(inputs[:128], targets[:128]), (inputs[128:], targets[128:])]
    assert tombola.forecast_memory(module, loader, train=train, prune=prune) == replace(forecast, data=0.0)
    assert all(map(torch.equal, before, module.state_dict().values()))
    assert torch.equal(rng, torch.get_rng_state())

    def run():
        tombola.find_tickets(module, (inputs, targets), train=train, prune=replace(prune, levels=0), progress=False)

    found = measured(tmp_path / "trace.json", run)
    assert 0.75 * found < forecast.weights + forecast.activations < 1.25 * found  # the data were there before


@pytest.mark.parametrize("changes", [{"cuda_graphs": True}, {"compile": True}], ids=str)
def test_what_is_of_a_gpu_or_a_compiler_is_forecast_without_it(changes, monkeypatch):
    monkeypatch.setattr(torch, "compile", None)  # would fail if it were called
    data = torch.zeros(64, 6), torch.zeros(64, dtype=torch.long)
    plain, same = (tombola.forecast_memory(nn.Linear(6, 3), data, train=TrainSettings(epochs=1, **c)) for c in ({}, changes))
    assert same == plain


def test_each_process_has_the_need_of_its_stage():
    data = images()
    _, one, _ = stages("mlp", {})
    budget = Budget([one], CPU, lambda _: data)
    needs = budget.of(one)
    for count, jobs, whom, times in ((3, 1, "", 1), (3, 2, " for 2 processes", 2), (1, 2, "", 1)):
        (line, *_) = budget.lines([replace(one, seed=seed) for seed in range(count)], jobs)
        assert line.startswith(f"memory: about {in_words(times * needs.total)} of ")
        assert f" free on cpu{whom} (" in line
    both = replace(needs, data=10.0, evaluation=7.0).times(2)
    assert (both.weights, both.activations) == (2 * needs.weights, 2 * needs.activations)
    assert (both.data, both.evaluation) == (20, 14)


def test_a_mapping_can_be_forecast():
    from support.kinds import KINDS

    kind = KINDS["bert"]
    forecast = tombola.forecast_memory(kind.module(), kind.batches())
    assert forecast.activations > 0
    assert forecast.weights > 0


def test_moments_are_extrapolated_one_by_one():
    """A kilobyte for each example, and once 10 kB: at 2 and 4 examples the peak is the constant, at 100 it is not."""

    def run(examples, allocations):
        kept = torch.empty(examples, 1024, dtype=torch.uint8)
        allocations.mark()
        del kept
        torch.empty(10_240, dtype=torch.uint8)

    assert peak_of(run, (2, 4))(100) == 100 * 1024
    assert peak_of(run, (2, 4))(3) == 10_240
    assert peak_of(run, (8, 8))(8) == 10_240


def test_allocations_count_each_storage_once_and_forget_the_freed():
    there = torch.ones(100)
    with Allocations([there]) as found:
        view = there[:50]
        own = torch.zeros(10, 10)
        again = own.view(100)[3:]
        assert found.now == 400
        del own
        assert found.now == 400
        del again
        assert found.now == 0
        assert len(view) == 50
