"""Cleaning of a store: records stay, what goes can be made again with the same bits, and nothing is run that need not be."""

import pandas as pd
import pytest

from tombola.engine.clean import size_of, survey
from tombola.engine.forecast import Forecast
from tombola.engine.local import dataset
from tombola.engine.progress import Progress, ProgressFile
from tombola.engine.records import collect
from tombola.engine.store import Store, missing
from tombola.engine.work import outline
from tombola.errors import TombolaError
from tombola.metrics.columns import names
from tombola.study.stages import Init, Prune, Train

TIMES = names("timing")


@pytest.fixture
def raw(tiny):
    return tiny | {"prune": {"fraction": 0.5, "levels": 2}, "train": {"epochs": 1, "batch_size": 100, "lr": 0.01}}


@pytest.fixture
def done(raw, plan_of, run_plan):
    """A finished plan and its store."""
    plan = plan_of(raw)
    store, _, engine = run_plan(plan)
    assert not engine.failures
    return plan, store


def cleaned(store, *plans, keep_masks=False, orphans=False):
    cleaning = survey(store, plans, keep_masks=keep_masks, orphans=orphans)
    cleaning.run()
    return cleaning


def same(one, other):
    pd.testing.assert_frame_equal(one.drop(columns=TIMES), other.drop(columns=TIMES), check_exact=True)


@pytest.mark.parametrize("keep_masks", [False, True])
def test_records_stay_and_nothing_runs_again(keep_masks, done, run_plan):
    plan, store = done
    before, size = collect(plan, store), size_of([store.root])
    cleaning = survey(store, [plan], keep_masks=keep_masks, orphans=False)
    assert size_of([store.root]) == size  # a survey removes nothing
    assert len(cleaning.tickets.paths) == sum(stage.kind != "evaluate" for stage in plan.stages)
    assert 0 < cleaning.freed < size
    cleaning.run()
    assert list(store.root.glob("*/ticket.safetensors")) == []
    masks = {path.parent.name for path in store.root.glob("*/mask.safetensors")}
    assert masks == ({stage.key for stage in plan.stages if isinstance(stage, Prune)} if keep_masks else set())
    store = Store(store.root)
    assert missing(plan, store) == []
    same(collect(plan, store), before)
    assert run_plan(plan)[1].began_of == []
    assert survey(store, [plan], keep_masks=keep_masks, orphans=True).freed == 0


def test_a_kept_mask_saves_the_trainings_before_it_and_gives_the_same_bits(done, raw, plan_of, run_plan):
    """A new arm at level 2 of the chain, and other weight samples of the ticket there: one training, with the same bits."""
    plan, store = done
    more = plan_of(raw | {"arms": ["ticket", {"arm": "shuffle_even", "levels": [2]}]})
    whole, _, _ = run_plan(more, "whole")
    masks = {key: store.ticket(key).mask for key in (s.key for s in plan.stages if isinstance(s, Prune))}
    cleaned(store, plan, keep_masks=True)
    assert all(store.mask(key)[0].equal(mask) for key, mask in masks.items())
    store = Store(store.root)
    new = {stage.key for stage in more.stages} - {stage.key for stage in plan.stages}
    to_run = missing(more, store)
    again = [stage for stage in to_run if stage.key not in new]
    assert [type(stage) for stage in again] == [Init, Prune]
    assert Forecast(outline(more, dataset), store).todo.keys() == {stage.key for stage in to_run}
    store, watcher, engine = run_plan(more)
    assert not engine.failures
    assert watcher.times() == dict.fromkeys((stage.key for stage in to_run), 1)
    same(collect(more, store), collect(more, whole))
    assert missing(more, store) == []


def test_without_masks_the_chain_is_run_again(done, raw, plan_of, run_plan):
    plan, store = done
    other = plan_of(raw | {"evaluate": {"samples": 3}})
    whole, _, _ = run_plan(other, "whole")
    cleaned(store, plan)
    to_run = missing(other, Store(store.root))
    assert [stage.kind for stage in to_run if stage.kind == "train"] == ["train"] * 3
    store, watcher, engine = run_plan(other)
    assert not engine.failures
    assert watcher.times() == dict.fromkeys((stage.key for stage in to_run), 1)
    same(collect(other, store), collect(other, whole))


def test_what_an_unfinished_stage_reads_stays(done, plan_of, raw):
    plan, store = done
    last = plan.rows[-1]
    for stage in last.read:
        store.discard(stage.key)
    store.checkpoint_path(last.trained.key).write_text("half")
    cleaned(store, plan)
    assert [path.parent.name for path in store.root.glob("*/ticket.safetensors")] == [last.trained.parents[0].key]
    assert store.checkpoint_path(last.trained.key).exists()
    assert missing(plan, store) == list(last.read)


def test_leftovers_go_and_stages_of_no_study_stay_unless_told(done, raw, plan_of, run_plan):
    plan, store = done
    other = plan_of(raw | {"seeds": [1]})
    run_plan(other)
    trained = plan.rows[0].trained.key
    half = store.unfinished / f"{trained}.123"
    half.mkdir()
    (half / "ticket.safetensors").write_text("half")
    store.checkpoint_path(trained).write_text("of a training that has ended")
    strange = [stage.key for stage in other.stages]
    cleaning = cleaned(store, plan)
    assert {path.name for path in cleaning.orphans.paths} == set(strange)
    assert not half.exists()
    assert not store.checkpoint_path(trained).exists()
    assert all(store.done(key) for key in strange)
    assert store.has_ticket(other.rows[0].trained.key)
    cleaned(store, plan, orphans=True)
    assert {path.name for path in store.root.iterdir()} == {"unfinished", *(stage.key for stage in plan.stages)}


def test_a_store_at_which_a_process_runs_is_left(done):
    plan, store = done
    with ProgressFile(store.unfinished, Progress(study="tiny")), pytest.raises(TombolaError, match="runs 'tiny' on"):
        survey(store, [plan], keep_masks=False, orphans=False)


def test_a_training_that_fails_when_it_is_made_again_keeps_its_record(done, raw, plan_of, run_plan, monkeypatch):
    plan, store = done
    before = collect(plan, store)
    cleaned(store, plan)

    def broken(self, tickets, context):
        raise RuntimeError("no longer")

    monkeypatch.setattr(Train, "run", broken)
    _, _, engine = run_plan(plan_of(raw | {"evaluate": {"samples": 3}}))
    assert any("no longer" in sentence for sentence in engine.failures.values())
    same(collect(plan, store), before)
