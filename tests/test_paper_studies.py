"""The studies of the paper: all are shipped, share their stages, and run whole at the toy size."""

from collections import Counter
from unittest.mock import Mock

import pytest
import torch

from tombola.engine import Engine, dataset
from tombola.plan import plan_study
from tombola.pruning.scores import SCORES
from tombola.records import collect, collect_views
from tombola.store import Store
from tombola.study import read, shipped, unfold

STUDIES = {name: path for name, path in shipped().items() if name.startswith("paper/")}
NETS = {"paper/size": "[resnet20, resnet110]"}
TOY = ("size=toy", "seeds=[0]")


def planned(name, *changes):
    return plan_study(unfold(read(name, [*TOY, *changes])), dataset)


def test_every_experiment_of_the_paper_is_shipped():
    names = ("scores", "layers", "randomise", "transplant", "rewind", "size", "rate", "calibration")
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
        ("paper/calibration", ["ticket (snr), objective=log_expected, samples=2", "transplant (magnitude)"]),
        ("paper/size", ["ticket (snr)", "deterministic (magnitude)"]),
    ],
)
def test_the_curves_of_a_study(study, expected, curves):
    nets = {model for model, _ in curves[study]}
    assert {f"{net}/toy" for net in ("resnet20", "vgg11", "vit_tiny")} <= nets
    assert {(net, curve) for net in nets for curve in expected} <= curves[study]


def test_what_studies_have_in_common_is_trained_once():
    trained = Counter(
        stage.key for name in STUDIES for stage in planned(name, "nets=[vit_tiny]").stages if stage.kind == "train"
    )
    scores = {s.key for s in planned("paper/scores", "nets=[vit_tiny]").stages if s.kind == "train"}
    assert {s.key for s in planned("paper/layers", "nets=[vit_tiny]").stages if s.kind == "train"} < scores
    # dense and one level of the Bayesian chain and of the deterministic one, in all but the study of rates
    assert sum(count == 7 for count in trained.values()) == 4


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    return tmp_path_factory.mktemp("paper") / "stages"


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_whole_at_the_toy_size(name, stages):
    """On one store, so that what they share runs once; without the page, which tests of the report draw."""
    plan, store = planned(name, f"nets={NETS.get(name, '[vit_tiny]')}"), Store(stages)
    engine = Engine(store, torch.device("cpu"), Mock())
    engine.run(plan)
    assert engine.failures == {}
    records = collect(plan, store)
    assert len(records) == len(plan.rows)
    assert records["accuracy"].notna().all()
    if plan.views:
        assert len(collect_views(plan, store))


def test_the_scores_as_coded_are_scores():
    assert {"snr_coded", "square_coded"} <= set(SCORES)
