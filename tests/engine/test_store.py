"""The store and the engine: what is done is kept, what fails stops only what builds on it; records and forecasts."""

import json
import math
import threading

import pandas as pd
import pytest
import torch

from tombola.engine import records
from tombola.engine.local import LocalEngine, dataset
from tombola.engine.progress import Watcher
from tombola.engine.records import collect
from tombola.engine.store import Store, missing
from tombola.engine.work import work_of
from tombola.errors import TombolaError
from tombola.metrics.columns import names
from tombola.pruning.scores import SCORES


def trainings(plan):
    return [stage for stage in plan.stages if stage.kind == "train"]


def engine_on(store, watcher):
    return LocalEngine(store, torch.device("cpu"), watcher)


@pytest.fixture
def raw(tiny):
    return tiny | {"arms": ["ticket", "deterministic"]}


@pytest.fixture
def done(raw, plan_of, run_plan):
    """A finished plan, its store and its watcher."""
    plan = plan_of(raw)
    store, watcher, engine = run_plan(plan)
    assert not engine.failures
    return plan, store, watcher


def test_every_stage_runs_once_and_is_marked_done(done):
    plan, store, watcher = done
    assert watcher.times() == dict.fromkeys((stage.key for stage in plan.stages), 1)
    assert watcher.ended_of == watcher.began_of
    assert missing(plan, store) == []
    for stage in plan.stages:
        there = store.record(stage.key)
        assert (there["key"], there["kind"], there["settings"]) == (stage.key, stage.kind, stage.describe())
        assert there["parents"] == [parent.key for parent in stage.parents]
        assert (store.root / stage.key / "ticket.safetensors").is_file() == (stage.kind != "evaluate")
    assert list((store.root / "unfinished").iterdir()) == []  # no lock either
    assert watcher.steps == sum(work_of(stage, dataset) for stage in trainings(plan))


def test_a_second_study_runs_only_what_is_new(done, raw, plan_of, run_plan):
    plan, _, _ = done
    _, watcher, _ = run_plan(plan_of(raw | {"name": "second"}))
    assert watcher.began_of == []
    more = plan_of(raw | {"arms": ["ticket", "deterministic", "reinit"]})
    _, watcher, _ = run_plan(more)
    assert set(watcher.began_of) == {stage.key for stage in more.stages} - {stage.key for stage in plan.stages}
    assert len(watcher.began_of) == 4  # the new start, the re-drawing, its training, its evaluation


def test_a_ticket_of_a_finished_stage_that_was_damaged_is_made_anew(done, raw, plan_of, run_plan):
    plan, store, _ = done
    dense = trainings(plan)[0]
    path = store.root / dense.key / "ticket.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:-7])
    again = plan_of(raw | {"arms": [{"arm": "ticket", "score": "mu"}]})
    store, watcher, engine = run_plan(again)
    assert not engine.failures
    assert watcher.times()[dense.key] == 1
    assert any(str(path) in said and "running train vi" in said for said in watcher.sentences)
    assert path.read_bytes() == before


@pytest.mark.parametrize("lost", ["record.json", "ticket.safetensors"])
def test_a_lost_file_is_made_anew(lost, done, raw, plan_of, run_plan):
    plan, store, _ = done
    dense = trainings(plan)[0]
    (store.root / dense.key / lost).unlink()
    _, watcher, engine = run_plan(plan_of(raw | {"arms": [{"arm": "ticket", "score": "mu"}]}))
    assert not engine.failures
    assert watcher.times()[dense.key] == 1


def test_a_damaged_ticket_that_cannot_be_made_anew_stops_its_chain_alone(done, plan_of, run_plan, monkeypatch):
    plan, store, _ = done
    ticket, deterministic = (plan.rows[i].stage for i in (1, 3))
    pruned = ticket.parents[0].parents[0]
    for stage in (ticket, ticket.parents[0], deterministic):
        store.discard(stage.key)
    (store.root / pruned.key / "ticket.safetensors").write_bytes(b"")

    def broken(mean, std, generator):
        raise RuntimeError("no longer")

    monkeypatch.setitem(SCORES, "snr", broken)
    store, _, engine = run_plan(plan)
    assert store.done(deterministic.key)
    assert not store.done(ticket.key)
    assert "prune" in engine.failures[pruned.key]
    assert "RuntimeError: no longer" in engine.failures[pruned.key]


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("damage", ["half", "empty", "lost", "another's", "numbers", "run"])
def test_a_damaged_record_is_not_done_and_the_next_run_makes_it_anew(kind, damage, done, run_plan):
    """The training's record too: the evaluation's row reads it, though no stage that is left depends on it."""
    plan, store, _ = done
    before = collect(plan, store)
    stage = next(stage for stage in plan.rows[1].read if stage.kind == kind)
    path = store.root / stage.key / "record.json"
    whole = json.loads(path.read_text())
    others = next(each for each in plan.rows[3].read if each.kind == kind)
    texts = {
        "half": path.read_text()[:50],
        "empty": "{}",
        "lost": "",
        "another's": (store.root / others.key / "record.json").read_text(),
        "numbers": json.dumps(whole | {"record": dict.fromkeys(whole["record"], "1")}),
        "run": json.dumps(whole | {"run": whole["run"] | {"seconds": None}}),
    }
    path.write_text(texts[damage])
    if damage == "lost":
        path.unlink()
    store = Store(store.root)
    assert missing(plan, store) == [stage]
    assert len(collect(plan, store)) == len(before) - 1
    with pytest.raises(TombolaError, match=r"record.json is damaged .*; run the study again"):
        store.record(stage.key)
    _, watcher, engine = run_plan(plan)
    assert not engine.failures
    assert watcher.began_of == [stage.key]
    timing = names("timing")
    pd.testing.assert_frame_equal(collect(plan, store).drop(columns=timing), before.drop(columns=timing))


ROW = {"a": 0, "b": 1, "quantity": "jaccard", "density": 0.5, "value": math.nan, "chance": 0.5, "of_your_own": [1]}
FOUND = {"train_seconds": 1.0, "best_accuracy": 0.5}


def record(kind, found, **more):
    run = {"seconds": 1.0, "device": "cpu", "torch": "2", "threads": 1}
    return {"key": "x", "kind": kind, "parents": ["y", "z"], "record": found, "run": run} | more


@pytest.mark.parametrize(
    ("about", "said"),
    [
        *(
            (record("overlap", {"rows": [ROW | {end: at}]}), f"its rows have {end}")
            for end in "ab"
            for at in (-1, 2, True, "0")
        ),
        (record("overlap", {"rows": [{"a": 0, "value": 1.0}]}), "its rows have b None, and 2 tickets"),
        (record("overlap", {"rows": [ROW | {"quantity": 1.5}]}), "its rows have quantity 1.5"),
        (record("overlap", {"rows": [ROW | {"value": "1"}]}), "its rows have value '1'"),
        (record("overlap", {"rows": [ROW | {"x": 10**400}]}), "its rows have x 1000"),
        (record("train", FOUND | {"train_flops": 10**400}), "its record has train_flops 1000"),
        (record("train", FOUND, history=[{"epoch": 1, "loss": "low"}]), "its history has 'low'"),
        (record("train", FOUND | {"train_seconds": 10**400}), "its record has train_seconds 1000"),
    ],
)
def test_numbers_of_a_record_are_as_tables_hold_them(about, said, tmp_path):
    for good in (record("overlap", {"rows": [ROW]}), record("train", FOUND, history=[{"epoch": 1, "loss": math.inf}])):
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / "record.json").write_text(json.dumps(good))
        assert Store(tmp_path).done("x")
    (tmp_path / "x" / "record.json").write_text(json.dumps(about))
    assert not Store(tmp_path).done("x")
    with pytest.raises(TombolaError, match=f"is damaged .{said}"):
        Store(tmp_path).record("x")


def test_a_plug_in_that_exits_is_an_error_of_its_stage(raw, plan_of, run_plan, monkeypatch):
    def leaves(mean, std, generator):
        raise SystemExit(0)

    monkeypatch.setitem(SCORES, "magnitude", leaves)
    plan = plan_of(raw)
    store, _, engine = run_plan(plan)
    (sentence,) = filter(None, engine.failures.values())
    assert "prune · deterministic (magnitude) · level 1" in sentence
    assert "SystemExit: 0" in sentence
    assert [store.done(row.stage.key) for row in plan.rows] == [True, True, True, False]


def test_a_stage_that_another_process_finished_meanwhile_is_not_run_again(raw, plan_of, run_plan, tmp_path):
    """The other process holds the lock of the first stage, finishes it, and lets go."""
    plan = plan_of(raw)
    other, _, _ = run_plan(plan, "other")
    first = plan.stages[0]
    mine = Store(tmp_path / "stages")
    mine.prepare()
    lock = mine.lock(first.key)
    lock.acquire()
    finished = {}

    def run():
        finished["watcher"] = run_plan(plan)[1]

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()  # it waits
    (other.root / first.key).rename(mine.root / first.key)
    lock.release()
    thread.join(60)
    assert not thread.is_alive()
    began = finished["watcher"].times()
    assert began == dict.fromkeys((stage.key for stage in plan.stages[1:]), 1)


BREAKS = """
import torch

def at_sixteen(mean, std, generator):
    if mean.numel() < 500:
        raise RuntimeError("I rank no fewer than 500")
    return mean.abs()
"""


def test_a_failing_score_stops_its_chain_alone(tiny, plan_of, run_plan, user_module):
    """64 x 8 = 512 weights: the first pruning works, the second does not."""
    user_module("my_score", BREAKS)
    arms = [{"arm": "ticket", "score": "my_score:at_sixteen"}, {"arm": "ticket", "score": "mu"}]
    plan = plan_of(tiny | {"prune": {"fraction": 0.5, "levels": 3}, "arms": arms})
    store, watcher, engine = run_plan(plan)
    curves = {
        curve: [r for r in plan.rows if r.labels["curve"] == curve]
        for curve in ("ticket (my_score:at_sixteen)", "ticket (mu)")
    }
    finished = {curve: [store.done(row.stage.key) for row in rows] for curve, rows in curves.items()}
    assert finished == {"ticket (my_score:at_sixteen)": [True, True, False, False], "ticket (mu)": [True] * 4}
    (said,) = [sentence for sentence in engine.failures.values() if sentence]
    assert said.startswith("prune ")
    assert "failed: RuntimeError: I rank no fewer than 500 (details in " in said
    assert said in watcher.sentences
    assert len(engine.failures) == 6  # prune, train, evaluate of levels 2 and 3
    (log,) = (store.root / "unfinished").glob("*.error")
    assert "Traceback" in log.read_text()
    assert str(log) in said
    assert len(collect(plan, store)) == 6
    _, watcher, _ = run_plan(plan)  # once more: only the failed stage is tried
    assert len(watcher.began_of) == 1


def test_a_training_that_diverges_says_where_and_stops_its_chain_alone(tiny, plan_of, run_plan):
    plan = plan_of(tiny | {"arms": ["ticket", {"arm": "deterministic", "train": {"lr": 1.0e20}}]})
    store, _, engine = run_plan(plan)
    table = collect(plan, store)
    assert table["arm"].tolist() == ["ticket", "ticket"]
    (said,) = [sentence for sentence in engine.failures.values() if sentence]
    assert "TrainingError: training stopped at step " in said
    assert "lower train.lr (1e+20)" in said


def test_warnings_of_a_stage_are_said_and_recorded(tiny, plan_of, run_plan):
    plan = plan_of(tiny | {"prune": {"fraction": 0.999999, "levels": 1}})
    store, watcher, engine = run_plan(plan)
    assert not engine.failures
    (prune,) = [stage for stage in plan.stages if stage.kind == "prune"]
    (said,) = store.record(prune.key)["run"]["warnings"]
    assert said == "pruning by snr has emptied layer '1.weight': no weight is left there"
    assert any(said in sentence for sentence in watcher.sentences)
    assert collect(plan, store)["density"].tolist() == [1.0, 0.0]


class Impatient(Watcher):
    """A watcher that interrupts once some stages have ended."""

    def __init__(self, after):
        self.left = after

    def ended(self, stage):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_an_interrupted_run_keeps_what_is_finished_and_goes_on(raw, plan_of, run_plan, tmp_path):
    plan = plan_of(raw)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, watcher=Impatient(4))
    assert len(missing(plan, Store(tmp_path / "stages"))) == len(plan.stages) - 4
    _, watcher, _ = run_plan(plan)
    assert len(watcher.began_of) == len(plan.stages) - 4


def test_an_interrupt_in_the_middle_of_a_stage_leaves_it_to_be_done(raw, plan_of, run_plan, tmp_path):
    class AtStep(Impatient):
        def stepped(self, stage, done, total):
            if done == 3:
                raise KeyboardInterrupt

    plan = plan_of(raw)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, watcher=AtStep(-1))
    assert missing(plan, Store(tmp_path / "stages"))[0].kind == "train"
    assert not run_plan(plan)[2].failures


def test_a_store_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        TombolaError, match=r"cannot write to .*file/stages: .*; choose another folder with --out or --store"
    ):
        Store(tmp_path / "file" / "stages").prepare()


# records


def test_records_have_a_row_for_each_ticket_and_these_columns(done):
    plan, store, _ = done
    table = collect(plan, store)
    assert " ".join(table.columns) == (
        "study stage key ticket arm curve variant model data method score sigma rewind seed level density density_all "
        "accuracy best_accuracy nll brier ece ece_null mace mace_null samples train_seconds train_flops total_seconds "
        "total_flops device torch threads repeats examples classes layer_density accuracy_sd rmse predictive_entropy "
        "mutual_information drift_mean drift_spread drift_rank parameters flops_left chain lr warmup_epochs settings "
        "changes ece_null_low ece_null_high ece_excess ece_empty_bins mace_null_low mace_null_high mace_excess "
        "mace_empty_bins mace_coded mace_coded_null mace_coded_null_low mace_coded_null_high mace_coded_excess "
        "mace_coded_empty_bins train_flops_sparse"
    )
    assert len(table) == 4
    for column in ("seed", "level", "samples", "examples", "classes", "threads"):
        assert pd.api.types.is_integer_dtype(table[column]), column
    for column in ("density", "density_all", "accuracy", "best_accuracy", "nll", "brier", "ece", "mace", "train_seconds"):
        assert table[column].dtype == "float64", column
    for column in ("study", "key", "ticket", "arm", "curve", "variant", "model", "method", "layer_density", "device"):
        assert pd.api.types.is_string_dtype(table[column]), column


def test_the_numbers_of_a_record_are_those_of_its_ticket(done):
    plan, store, _ = done
    for row in collect(plan, store).to_dict("records"):
        ticket = store.ticket(row["ticket"])
        history = ticket.info["history"]
        assert row["best_accuracy"] == max(epoch["accuracy"] for epoch in history)
        assert row["density"] == ticket.density == [1.0, 0.5][row["level"]]
        assert row["density_all"] == ticket.density_all
        assert json.loads(row["layer_density"]) == ticket.layer_density() == {"1.weight": row["density"]}
        assert row["samples"] == (1 if row["arm"] == "deterministic" else 2)
        assert (row["examples"], row["classes"]) == (1500, 10)
        assert 0 <= row["accuracy"] <= 1
        assert (row["method"], row["score"]) == (("map", "magnitude") if row["arm"] == "deterministic" else ("vi", "snr"))
        assert ticket.info["seed"] == row["seed"] == 0
        assert ticket.info["level"] == row["level"]


def test_a_deterministic_record_is_the_accuracy_of_the_last_epoch(done):
    """Its predictive is one pass of the same weights on the same test split."""
    plan, store, _ = done
    table = collect(plan, store)
    for row in table[table["arm"] == "deterministic"].to_dict("records"):
        assert row["accuracy"] == pytest.approx(store.ticket(row["ticket"]).info["history"][-1]["accuracy"], abs=1e-12)


def test_records_survive_parquet(done, tmp_path):
    plan, store, _ = done
    table = collect(plan, store)
    records.write(table, tmp_path / "records.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "records.parquet"), table)
    assert [path.name for path in tmp_path.glob("records*")] == ["records.parquet"]


def test_records_of_nothing_are_an_empty_table(raw, plan_of, tmp_path):
    table = collect(plan_of(raw), Store(tmp_path / "none"))
    assert len(table) == 0
    assert {"curve", "accuracy", "level"} <= set(table.columns)


def test_records_are_the_same_bits_in_another_store(done, raw, plan_of, run_plan):
    plan, store, _ = done
    other, _, _ = run_plan(plan_of(raw), "other")
    left, right = (collect(plan, s).drop(columns=names("timing")) for s in (store, other))
    pd.testing.assert_frame_equal(left, right, check_exact=True)
