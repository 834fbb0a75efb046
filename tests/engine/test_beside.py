"""Trainings side by side in a run: the same records, and how many of them go at once."""

import math
import warnings

import pytest
import torch
from pandas.testing import assert_frame_equal

from tombola.engine import local, on_ray
from tombola.engine.beside import SideBySide
from tombola.engine.folder import StudyFolder
from tombola.engine.local import LocalEngine
from tombola.engine.progress import Watcher
from tombola.engine.records import collect
from tombola.engine.store import Store, missing
from tombola.inference import graphs
from tombola.metrics.columns import names
from tombola.study.plan import names_of


class Said(Watcher):
    def __init__(self):
        self.sentences: list[str] = []

    def said(self, sentence: str) -> None:
        self.sentences.append(sentence)


@pytest.fixture
def plan(tiny, plan_of, monkeypatch):
    monkeypatch.setattr(graphs, "check_device", lambda device: None)
    train = tiny["train"] | {"cuda_graphs": True}
    return plan_of(tiny | {"train": train, "seeds": [0, 1], "arms": ["ticket", "deterministic", "reinit"]})


def run(plan, where, count: int | None) -> tuple[LocalEngine, Said]:
    watcher = Said()
    engine = LocalEngine(Store(where), torch.device("cpu"), watcher, beside=SideBySide(count))
    engine.run(plan)
    assert missing(plan, engine.store) == []
    return engine, watcher


def test_records_are_those_of_trainings_alone(plan, tmp_path, monkeypatch):
    groups = []
    several = local.train_stages

    def noted(stages, parents, contexts):
        groups.append(len(stages))
        return several(stages, parents, contexts)

    monkeypatch.setattr(local, "train_stages", noted)
    alone, _ = run(plan, tmp_path / "alone", 1)
    assert groups == []
    beside, _ = run(plan, tmp_path / "beside", 3)
    assert groups
    assert max(groups) == 3
    ours, theirs = (collect(plan, e.store).drop(columns=list(names("timing")), errors="ignore") for e in (beside, alone))
    assert_frame_equal(ours, theirs, check_exact=True)


def test_a_ray_task_has_several_trainings_of_one_pace(tiny, tmp_path, monkeypatch):
    """As the driver groups them, and as a worker runs them, without Ray."""
    monkeypatch.setattr(graphs, "check_device", lambda device: None)
    raw = tiny | {"train": tiny["train"] | {"cuda_graphs": True}, "seeds": [0, 1], "arms": ["ticket"]}
    folder = StudyFolder.of(raw, tmp_path / "tiny", tmp_path / "stages", tmp_path)
    folder.prepare()
    starts = [stage for stage in folder.plan.stages if stage.kind == "init"]
    LocalEngine(folder.store, torch.device("cpu"), Said()).run_stages(starts, names_of(folder.plan), "tiny")
    driver = on_ray.RayTasks(folder, "cpu", 1, pytest.fail, concurrent=2)
    driver._ready = [stage for stage in folder.plan.stages if stage.kind == "train" and stage.parents[0] in starts]
    group = driver._group(driver._ready.pop(0))
    assert len(group) == 2
    assert not driver._ready
    _, said, stopped = on_ray.run_task(str(folder.path), "run", [stage.key for stage in group], "cpu", 1, math.inf)
    assert (said, stopped) == ([], False)
    one, other = (folder.store.record(stage.key)["run"] for stage in group)
    assert one["seconds"] == other["seconds"]  # each has half of the time of both


def test_what_a_group_warns_of_is_in_the_record_of_each(plan, tmp_path, monkeypatch):
    several = local.train_stages

    def warned(stages, parents, contexts):
        warnings.warn("mind the gap", stacklevel=1)
        return several(stages, parents, contexts)

    monkeypatch.setattr(local, "train_stages", warned)
    engine, watcher = run(plan, tmp_path / "store", 2)
    assert any(said.endswith(": mind the gap") for said in watcher.sentences)
    trained = [engine.store.record(stage.key)["run"]["warnings"] for stage in plan.stages if stage.kind == "train"]
    assert ["mind the gap"] in trained


def test_where_one_fails_each_is_tried_alone(plan, tmp_path, monkeypatch):
    def fails(stages, parents, contexts):
        raise RuntimeError("no memory for two")

    monkeypatch.setattr(local, "train_stages", fails)
    engine, watcher = run(plan, tmp_path / "store", 2)
    assert not engine.failures
    assert any("run one by one now (RuntimeError: no memory for two)" in said for said in watcher.sentences)


@pytest.mark.parametrize(("seconds", "found"), [((1, 2, 3, 4), 1), ((4, 3, 2, 3), 4), ((4, 3, 2, 1), 8), ((4, 1, 2, 3), 2)])
def test_the_number_is_found_by_timing_trainings_that_are_made_anyway(seconds: tuple, found: int):
    takes, beside = dict(zip((1, 2, 4, 8), seconds, strict=True)), SideBySide(None)
    tried = []
    for _ in range(9):
        tried.append(beside.count("kind"))
        beside.took("kind", tried[-1], takes[tried[-1]])
    assert beside.count("kind") == found
    assert tried[:2] == [4, 4]  # the first trainings compile: their time says nothing


def test_too_many_for_the_memory_are_not_tried_again():
    beside, tried = SideBySide(None), []
    for _ in range(8):
        tried.append(beside.count("kind"))
        if tried[-1] > 2:
            beside.were_too_many("kind", tried[-1])
        else:
            beside.took("kind", tried[-1], 3.0 - tried[-1])
    assert tried == [4, 2, 2, 1, 2, 2, 2, 2]  # the first of two compile
