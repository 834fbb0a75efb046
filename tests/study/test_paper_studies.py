"""The studies of the paper: all are shipped, share their stages, and run whole at the toy size."""

import json
from collections import Counter
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch

from tombola.claims import judge
from tombola.claims.paper import CLAIMS
from tombola.engine.local import LocalEngine, dataset
from tombola.engine.records import collect, collect_analyses
from tombola.engine.store import Store
from tombola.pruning.scores import SCORES
from tombola.settings import TrainSettings
from tombola.study.arms import TRANSPLANTS
from tombola.study.plan import plan_study
from tombola.study.spec import read, shipped, unfold
from tombola.training.optim import lr_factor

STUDIES = {name: path for name, path in shipped().items() if name.startswith("paper/")}
NETS = {"paper/size": "[resnet20, resnet110]"}
TOY = ("size=toy", "seeds=[0]", "train.epochs=1")


def planned(name, *changes):
    return plan_study(unfold(read(name, [*TOY, *changes])), dataset)


def test_every_experiment_of_the_paper_is_shipped():
    names = ("scores", "layers", "randomise", "transplant", "rewind", "size", "rate", "calibration", "robustness")
    assert set(STUDIES) == {f"paper/{name}" for name in names}
    for name in STUDIES:
        assert {study["name"] for study in [read(name, [])]} == {name.replace("/", "-")}


@pytest.fixture(scope="module")
def curves():
    """Study -> its curves."""
    return {name: {(row.labels["model"], row.labels["curve"]) for row in planned(name).rows} for name in STUDIES}


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        ("paper/scores", ["ticket (snr)", "ticket (mu)", "ticket (square)", "deterministic (magnitude)"]),
        ("paper/scores", ["ticket (snr_coded)", "ticket (square_coded)"]),
        ("paper/scores", ["ticket (snr), sigma as at the start", "ticket (snr), sigma shuffled"]),
        ("paper/scores", ["ticket (snr), log_std_lr_factor=1", "ticket (snr), log_std_lr_factor=5"]),
        ("paper/layers", ["ticket (snr)", "deterministic (magnitude)"]),
        ("paper/randomise", ["re-init (snr)", "layer-wise shuffle (snr)", "global shuffle (snr)", "even shuffle (snr)"]),
        ("paper/randomise", [f"{c} of deterministic (magnitude)" for c in ("re-init", "layer-wise shuffle")]),
        ("paper/randomise", [f"{c} of deterministic (magnitude)" for c in ("global shuffle", "even shuffle")]),
        ("paper/transplant", ["transplant (magnitude)", "ticket (snr)", "deterministic (magnitude)"]),
        ("paper/transplant", ["transplant, shuffled mask (magnitude)", "transplant, re-drawn weights (magnitude)"]),
        ("paper/rewind", [f"{c}, learning-rate rewinding" for c in ("ticket (snr)", "deterministic (magnitude)")]),
        ("paper/rewind", ["equal budget (snr)", "equal budget of deterministic (magnitude)"]),
        ("paper/rate", ["ticket (snr), lr=0.001", "ticket (snr), lr=0.01", "ticket (snr), lr=0.01, warmup_epochs=1"]),
        ("paper/calibration", ["ticket (snr)", "deterministic (magnitude)", "transplant (magnitude)"]),
        ("paper/size", ["ticket (snr)", "deterministic (magnitude)"]),
        ("paper/robustness", ["ticket (snr)", "deterministic (magnitude)", "transplant (magnitude)"]),
    ],
)
def test_the_curves_of_a_study(study, expected, curves):
    nets = {model for model, _ in curves[study]}
    assert {f"{net}/toy" for net in ("resnet20", "vgg11", "vit_tiny")} <= nets
    # it has no relative of another size, and steps by SGD, at other rates than these
    assert ("fast/toy" in nets) == (study not in ("paper/size", "paper/rate"))
    assert {(net, curve) for net in nets for curve in expected} <= curves[study]


def test_what_studies_have_in_common_is_trained_once():
    trained = Counter(
        stage.key for name in STUDIES for stage in planned(name, "nets=[vit_tiny]").stages if stage.kind == "train"
    )
    scores = {s.key for s in planned("paper/scores", "nets=[vit_tiny]").stages if s.kind == "train"}
    assert {s.key for s in planned("paper/layers", "nets=[vit_tiny]").stages if s.kind == "train"} < scores
    # dense and one level of the Bayesian chain and of the deterministic one, in all but the study of rates
    assert sum(count == 8 for count in trained.values()) == 4


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    return tmp_path_factory.mktemp("paper") / "stages"


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", [*STUDIES, "checks/objective"])
def test_a_study_runs_whole_at_the_toy_size(name, stages):
    """On one store, so that what they share runs once; without the page, which tests of the report draw."""
    plan, store = planned(name, f"nets={NETS.get(name, '[vit_tiny]')}"), Store(stages)
    engine = LocalEngine(store, torch.device("cpu"), Mock())
    engine.run(plan)
    assert engine.failures == {}
    records = collect(plan, store)
    assert len(records) == len(plan.rows)
    assert records["accuracy"].notna().all()
    if plan.analyses:
        assert len(collect_analyses(plan, store))


DENSE = ("ticket", 0)
CHAIN = ("prune.levels=4", "prune.fraction=0.665")


@pytest.mark.parametrize("study", sorted({claim.study for claim in CLAIMS.values()}))
def test_every_claim_finds_what_it_needs_in_the_study_that_it_names(study):
    """By what the plan's rows are called; the numbers are drawn."""
    nets = "[resnet20, resnet110, vgg11, vgg19]" if study == "paper/size" else "[resnet20, vgg11, vit_tiny, fast]"
    plan = planned(study, f"nets={nets}", "seeds=[0, 1]", *CHAIN)
    drawn = {stage.key: np.random.default_rng(i) for i, stage in enumerate(plan.stages)}  # equal in equal rows
    metrics = ("accuracy", "best_accuracy", "mace", "mace_coded", "train_seconds", "train_flops")
    records = pd.DataFrame(
        [
            row.labels
            | {"key": row.stage.key, "density": 0.335 ** row.labels["level"]}
            | {metric: draw.uniform(0.1, 0.9) for metric in metrics}
            | {"layer_density": json.dumps({f"layer{i}": draw.uniform() for i in range(4)})}
            for row in {row.stage.key: row for row in plan.rows}.values()
            for draw in [drawn[row.stage.key]]
        ]
    )
    rows = judge(records, {name: claim for name, claim in CLAIMS.items() if claim.study == study})
    # the levels of the size cpu have nothing within a factor of 1.2 of 50%, nor a pruned level above it
    assert [row.needs for row in rows if row.needs and "near 50% left" not in row.needs] == []
    assert {row.joint.deciding.n for row in rows if row.joint} == {2}


def test_a_transplanted_ticket_has_the_deterministic_runs_initial_weights_bit_by_bit(stages):
    plan, store = planned("paper/transplant", "nets=[vit_tiny]"), Store(stages)
    LocalEngine(store, torch.device("cpu"), Mock()).run(plan)
    at = {row.labels["arm"]: row.stage.parents[0] for row in plan.rows if row.labels["level"] == 1}
    (pruned,) = at["deterministic"].parents
    _, init = pruned.parents
    initial, mask = store.ticket(init.key).rewind.posterior.mean, store.ticket(pruned.key).mask
    prunable = store.ticket(init.key).layout.prunable
    (own,) = {row.stage.parents[0].parents[0].key for row in plan.rows if (row.labels["arm"], row.labels["level"]) == DENSE}
    assert torch.equal(store.ticket(own).rewind.posterior.mean, initial)  # both kinds of network start alike
    planted = {arm: store.ticket(at[arm].parents[0].key) for arm in TRANSPLANTS}
    for arm, ticket in planted.items():
        q = ticket.rewind.posterior
        assert (q.mean[~ticket.mask] == 0).all()
        assert (q.std[~ticket.mask] == 0).all()
        assert (ticket.mask[~prunable]).all()
        assert ticket.density == store.ticket(pruned.key).density
        trained = store.ticket(at[arm].key).trained.posterior  # they stay zero
        assert (trained.mean[~ticket.mask] == 0).all()
        assert (trained.std[~ticket.mask] == 0).all()
    assert torch.equal(planted["transplant"].mask, mask)
    assert torch.equal(planted["transplant"].rewind.posterior.mean, torch.where(mask, initial, 0.0))
    shuffled, redrawn = planted["transplant_shuffle"], planted["transplant_reinit"]
    assert torch.equal(shuffled.rewind.posterior.mean, torch.where(shuffled.mask, initial, 0.0))
    assert shuffled.layer_density() == store.ticket(pruned.key).layer_density()
    assert not torch.equal(shuffled.mask, mask)
    assert torch.equal(redrawn.mask, mask)
    kept = mask & prunable
    assert not (redrawn.rewind.posterior.mean[kept] == initial[kept]).any()


@pytest.mark.parametrize("name", STUDIES)
def test_no_study_changes_the_papers_settings_at_the_full_size(name):
    for variant in unfold(read(name, ["size=full"])):
        train, evaluate = variant.study.train, variant.study.evaluate
        assert (train.epochs, train.lr, train.schedule, train.samples) == (160, 0.001, "step", 10)
        assert (evaluate.samples, evaluate.repeats, evaluate.bins) == (10, 5, 20)


def test_a_net_without_batch_norm_is_measured_once():
    for net, ways in (("vit_tiny", 1), ("resnet20", 3)):
        plan = planned("paper/calibration", f"nets=[{net}]")
        dense = [r for r in plan.rows if (r.labels["curve"], r.labels["level"]) == ("ticket (snr)", 0)]
        assert len(dense) == 3
        assert len({row.stage.key for row in dense}) == len({row.labels["settings"] for row in dense}) == ways
    sampled = {row.stage.key for row in planned("paper/layers", "nets=[resnet20]").rows}
    assert len(sampled & {row.stage.key for row in dense}) == 1  # the default is measured once in all studies


def test_equal_budget_trains_a_ticket_as_long_as_learning_rate_rewinding_has():
    plan = planned("paper/rewind", "nets=[vit_tiny]", "train.epochs=2", "train.warmup_epochs=1", *CHAIN)
    training = {
        (row.labels["arm"], row.labels["chain"], row.labels["rewind"], row.labels["level"]): row.stage.parents[0]
        for row in plan.rows
    }
    longer = {key: stage for key, stage in training.items() if key[0] == "equal_budget"}
    assert {level for *_, level in longer} == {2, 4}  # nearest to 10% and to 1% left
    for (_, chain, _, level), stage in longer.items():
        arm = "ticket" if chain == "bayesian" else "deterministic"
        kept, plain = training[arm, chain, "learning_rate", level], training[arm, chain, "init", level]
        assert stage.settings.epochs == sum(each.settings.epochs for each in trainings_behind(kept))
        assert stage.settings.warmup_epochs == (level + 1) * plain.settings.warmup_epochs
        assert [p.key for p in stage.parents] == [p.key for p in plain.parents]  # the ticket of iterative pruning


def trainings_behind(stage):
    """The stage and the trainings before it."""
    before = [found for parent in stage.parents[:1] for found in trainings_behind(parent)]
    return [stage, *before] if stage.kind == "train" else before


@pytest.mark.parametrize("schedule", ["step", "cosine", "one_cycle"])
def test_the_schedule_is_stretched_with_the_budget(schedule):
    short = TrainSettings(schedule=schedule, epochs=4, warmup_epochs=1)
    long = replace(short, epochs=12, warmup_epochs=3)
    steps = 100  # of an epoch
    for step in range(0, 4 * steps, 7):
        at, then = lr_factor(short, step, 4 * steps, steps), lr_factor(long, 3 * step, 12 * steps, steps)
        assert then == pytest.approx(at, abs=0.03)  # one of the short one's steps


def test_the_scores_as_coded_are_scores():
    assert {"snr_coded", "square_coded"} <= set(SCORES)
