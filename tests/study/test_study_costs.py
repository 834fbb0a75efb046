"""What `tombola studies` says of the studies' costs, and where these numbers are from."""

import io
import json

import pytest
import torch
from rich.console import Console

from benchmarks import costs as script
from tombola.cli import catalogue
from tombola.models import build
from tombola.posterior.state import initial_state, layout_of
from tombola.settings import PosteriorSettings, PruneSettings, TrainSettings
from tombola.study.plan import plan_study
from tombola.study.spec import read, shipped, unfold
from tombola.study.stages import Train
from tombola.training.flops import flops_per_example

RECORD = {
    "date": "2026-11-23",
    "hardware": {"cpu": "Some Processor", "cores": 2},
    "jobs": 2,
    "studies": [
        {"study": "paper/scores", "trainings": 750, "wall_seconds": 700.0, "alone_seconds": 690.0},
        {"study": "paper/layers", "trainings": 375, "wall_seconds": 12.0, "alone_seconds": 340.0},
    ],
}


def printed(known, width=100):
    descriptions = {name: read(name, []).get("description", "") for name in shipped()}
    console = Console(width=width, file=io.StringIO())
    console.print(catalogue.studies_table(descriptions, known))
    return console.file.getvalue()


@pytest.mark.parametrize("size", ["gpu", "full"])
def test_every_study_of_the_paper_has_a_forecast(size):
    there = catalogue.costs()[size]["studies"]
    assert list(there) == script.paper_studies()
    for cost in there.values():
        assert cost["trainings"] > 0
        assert 0 <= cost["added_seconds"] <= cost["alone_seconds"]
    assert there["paper/layers"]["added_seconds"] == 0  # all of it is in paper/scores
    assert there["paper/scores"]["added_seconds"] == there["paper/scores"]["alone_seconds"]


def test_the_file_counts_the_trainings_of_the_plan():
    plan = plan_study(unfold(read("paper/rate", ["size=gpu"])), script.stand_in)
    there = catalogue.costs()["gpu"]["studies"]["paper/rate"]
    assert there["trainings"] == sum(isinstance(stage, Train) for stage in plan.stages)


@pytest.mark.parametrize(
    ("name", "args"),
    [("resnet", {"depth": 8, "width": 2}), ("vit", {"patch": 8, "dim": 8, "heads": 2, "head": 4, "depth": 1})],
    ids=["resnet", "vit"],
)
@pytest.mark.parametrize(
    ("settings", "times"),
    [
        ({"method": "map"}, (0, 1)),
        ({"samples": 3}, (0, 3)),
        ({"samples": 2, "objective": "log_expected"}, (2, 2)),
    ],
    ids=["map", "vi", "log_expected"],
)
def test_operations_on_the_meta_device_are_those_of_a_real_step(name, args, settings, times):
    shape = (3, 16, 16)
    passes = script.passes_of(json.dumps([name, args, shape, 10]))
    module = build(name, args, shape, 10, ("it",))
    state = initial_state(module, layout_of(module, PosteriorSettings(), PruneSettings()), PosteriorSettings(), 0)
    state = state.as_family("point") if settings.get("method") == "map" else state
    batch = torch.zeros(4, *shape), torch.arange(4)
    counted = flops_per_example(module, state, TrainSettings(**settings), batch)
    assert counted == sum(n * flops for n, flops in zip(times, passes.flops, strict=True))


def test_a_training_takes_the_larger_of_its_operations_and_its_launches(monkeypatch):
    raw = {"name": "it", "size": "gpu", "nets": ["resnet20"], "prune": {"levels": 0}, "arms": ["ticket"]}
    (train,) = (s for s in plan_study(unfold(raw), script.stand_in).stages if isinstance(s, Train))
    monkeypatch.setattr(script, "passes_of", lambda words: script.Passes((1e6, 3e6), (100, 300)))
    examples, steps = 30 * 50_000, 30 * 100
    for rate, launch, seconds in ((1e9, 0.0, 3e6 * examples / 1e9), (1e30, 1e-3, 0.3 * steps)):
        monkeypatch.setattr(script, "ASSUMED", {"flops_per_second": rate, "seconds_per_launch": launch})
        assert script.cost_of(train) == pytest.approx((3e6 * examples, seconds))


def test_measured_and_forecast_costs_are_told_apart():
    known = catalogue.costs() | {"cpu": script.measured(RECORD)}
    shown = printed(known)
    assert max(map(len, shown.splitlines())) <= 100
    for name in shipped():
        assert f" {name} " in shown
    assert "12 min" in shown
    assert "+12 s" in shown
    flat = " ".join(shown.split())
    assert "cpu: measured on 2 cores of Some Processor, 2 processes, 2026-11-23" in flat
    assert "gpu, full: forecast for one H200, never measured" in flat
    rate = next(line for line in shown.splitlines() if " paper/rate " in line)
    assert rate.split("│")[3].strip() == "-"  # not in the record


def test_without_a_record_nothing_is_said_to_be_measured():
    assert "cpu: not measured yet." in printed({"cpu": {"studies": {}}})


def test_of_a_description_the_first_sentence_is_shown():
    assert catalogue.first_sentence("Figure 1 of arXiv 2602.18825: does it\n hold? And more. As a view.") == (
        "Figure 1 of arXiv 2602.18825: does it hold?"
    )
