"""`evaluate.measures`: columns of whole studies against the ticket's own predictions; bits; what is refused."""

import numpy as np
import pandas as pd
import pytest
import torch

from tombola import metrics
from tombola.data import load_data
from tombola.data.corruptions import SEVERITIES, each_corrupted_once
from tombola.data.outside import inputs_of
from tombola.engine.local import dataset
from tombola.engine.records import collect
from tombola.errors import TombolaError
from tombola.metrics.columns import RECORDS
from tombola.metrics.uncertainty_columns import CORRUPTIONS
from tombola.models import build
from tombola.posterior.predictive import classes_of, outputs
from tombola.study.plan import plan_study
from tombola.study.spec import unfold
from tombola.training.measures import MEASURES

ALL = ["selective", "ood", "corrupted", "conformal", "temperature", "adaptive"]
ARGS = {"validation": 200, "test": 600, "leave_out": [3, 8]}
RAW = {
    "name": "measured",
    "data": {"name": "digits", "args": ARGS},
    "model": {"name": "mlp", "args": {"hidden": [16]}},
    "train": {"epochs": 2, "batch_size": 32, "lr": 0.01},
    "prune": {"levels": 0},
    "evaluate": {"samples": 3, "measures": ALL},
    "arms": ["ticket", "deterministic"],
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Plan, store and records of the study."""
    from unittest.mock import Mock

    from tombola.engine.local import LocalEngine
    from tombola.engine.store import Store

    plan, store = plan_study(unfold(RAW), dataset), Store(tmp_path_factory.mktemp("measures") / "stages")
    engine = LocalEngine(store, torch.device("cpu"), Mock())
    engine.run(plan)
    assert engine.failures == {}
    return plan, store, collect(plan, store)


def predicted(ran, inputs, curve=0):
    plan, store, _ = ran
    row = plan.rows[curve]
    module = build("mlp", {"hidden": [16]}, (1, 8, 8), 8, ("skeleton",))
    state = store.ticket(row.trained.key).trained
    return outputs(module, state, inputs, samples=3, stream=(0, row.stage.key, 0), batch_norm="running")


def test_every_column_is_that_of_the_tickets_own_predictions(ran):
    data, record = load_data("digits", ARGS), ran[2].iloc[0]
    inputs, labels = data.test
    probs = classes_of(predicted(ran, inputs)).probs_SBC
    mean, scores = probs.mean(0), metrics.uncertainties(probs)
    wrong = mean.argmax(1) != labels
    for score, values in scores.items():
        assert record[f"aurc_{score}"] == metrics.aurc(values, wrong)
        assert record[f"excess_aurc_{score}"] == metrics.excess_aurc(values, wrong)
        assert record[f"risk80_{score}"] == metrics.risk_at_coverage(values, wrong, 0.8)
        for name in ("near", "noise", "textures"):
            outside = metrics.uncertainties(classes_of(predicted(ran, inputs_of(name, data, 2000))).probs_SBC)[score]
            outside = outside[: len(labels)]
            assert record[f"auroc_{name}_{score}"] == metrics.auroc(values, outside)
            assert record[f"aupr_{name}_{score}"] == metrics.aupr(values, outside)
            assert record[f"fpr95_{name}_{score}"] == metrics.fpr95(values, outside)
    held_out, held_labels = data.validation
    own = classes_of(predicted(ran, held_out)).probs
    found = metrics.conformal_classes(own, held_labels, mean, labels, 0.9)
    assert {name: record[name] for name in found} == found
    temperature = metrics.temperature(own, held_labels)
    assert record["temperature"] == temperature
    assert record["nll_tempered"] == metrics.nll(metrics.tempered(mean, temperature), labels)
    assert record["ece_adaptive"] == metrics.adaptive_ece(mean, labels, 15)
    assert record["ece_adaptive_excess"] == pytest.approx(record["ece_adaptive"] - record["ece_adaptive_null"])


def test_corrupted_images_are_counted_by_severity_and_kind(ran):
    data, record = load_data("digits", ARGS), ran[2].iloc[0]
    inputs, labels = data.test
    right, kinds = [], []
    for severity in SEVERITIES:
        images, kind = each_corrupted_once(inputs, severity)
        right.append(classes_of(predicted(ran, images)).probs.argmax(1) == labels)
        kinds.append(kind)
        assert record[f"accuracy_severity{severity}"] == right[-1].double().mean().item()
    for k, name in enumerate(CORRUPTIONS):
        hits = torch.cat(right)[torch.cat(kinds) == k]
        assert record[f"accuracy_{name}"] == pytest.approx(hits.double().mean().item())
    assert record["accuracy_corrupted"] == pytest.approx(torch.cat(right).double().mean().item())
    assert record["accuracy_severity5"] < record["accuracy_severity1"] <= record["accuracy"] + 0.02


def test_a_deterministic_network_has_no_mutual_information_and_the_rest(ran):
    record = ran[2].iloc[1]
    columns = [name for name, column in RECORDS.items() if column.kind == "uncertainty" and name in ran[2]]
    empty = {name for name in columns if np.isnan(record[name])}
    assert empty == {name for name in columns if name.endswith("_information")}
    assert len(columns) == 9 + 3 * 9 + 8 + 15 + 2 + 3


def test_measures_change_no_other_column_and_come_out_the_same_again(ran, run_plan):
    plan = plan_study(unfold(RAW | {"arms": ["ticket"]}), dataset)
    again = collect(plan, run_plan(plan)[0])
    columns = [name for name in again if RECORDS[name].kind not in ("timing", "environment")]
    pd.testing.assert_frame_equal(again[columns], ran[2][columns].iloc[:1])
    plain = plan_study(unfold(RAW | {"arms": ["ticket"], "evaluate": {"samples": 3}}), dataset)
    assert [s.key for s in plain.stages if s.kind != "evaluate"] == [s.key for s in plan.stages if s.kind != "evaluate"]
    found = collect(plain, run_plan(plain)[0])
    assert not any(RECORDS[name].kind == "uncertainty" for name in found)
    # the key names the streams of samples and nulls, so that only what does not draw is equal
    assert found["examples"].equals(again["examples"])


def test_the_order_of_measures_and_their_repetition_make_no_other_key():
    def key(measures, **more):
        raw = RAW | {"evaluate": {"measures": measures, **more}, "arms": ["ticket"]}
        return plan_study(unfold(raw), dataset).rows[0].stage.key

    assert key(["ood", "selective"]) == key(["selective", "ood", "ood"]) != key(["ood"])
    assert key(["ood"], outside=["noise"]) != key(["ood"])
    assert len({key([name]) for name in ALL}) == len(ALL)


def test_a_file_of_outliers_enters_the_key_by_its_images(tmp_path):
    path = tmp_path / "images-idx3-ubyte"

    def key(pixel):
        path.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, pixel]))
        raw = RAW | {"evaluate": {"measures": ["ood"], "outside": [str(path)]}, "arms": ["ticket"]}
        return plan_study(unfold(raw), dataset).rows[0].stage.key

    assert key(3) != key(4)


DIABETES = {
    "name": "diabetes",
    "data": {"name": "diabetes"},
    "model": {"name": "mlp", "args": {"hidden": [24]}},
    "train": {"epochs": 12, "batch_size": 32, "lr": 0.01, "likelihood": "gaussian", "noise_std": 0.7, "learn_noise": True},
    "prune": {"levels": 1, "fraction": 0.5},
    "evaluate": {"samples": 4, "measures": ["intervals", "conformal"]},
    "arms": ["ticket", "deterministic"],
}


def test_a_regression_has_intervals_that_cover(run_plan):
    plan = plan_study(unfold(DIABETES), dataset)
    records = collect(plan, run_plan(plan)[0])
    assert records["rmse"].between(0.5, 0.95).all()  # 1 is that of the training mean
    assert records["interval_coverage"].between(0.75, 1).all()
    assert records["conformal_coverage"].between(0.75, 1).all()
    assert (records["crps"] < records["rmse"]).all()
    assert (records["conformal_width"] > 0).all()
    assert "conformal_size" not in records


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"evaluate": {"measures": ["selectiv"]}}, "evaluate.measures"),
        ({"evaluate": {"measures": ["intervals"]}}, "intervals, which needs likelihood gaussian"),
        ({"evaluate": {"outside": ["noise"]}}, "evaluate.measures lacks ood"),
        ({"evaluate": {"measures": ["ood"], "outside": ["noise", "noise"]}}, "give each once"),
        ({"evaluate": {"measures": ["ood"], "outside": ["no/file"]}}, "none of near, noise, textures, digits, and no file"),
        ({"evaluate": {"measures": ["temperature"], "split": "validation"}}, "set evaluate.split to test"),
        (
            {"evaluate": {"measures": ["conformal"]}, "data": {"name": "digits", "args": {"validation": 0}}},
            "holds none out; set data.args.validation",
        ),
        (DIABETES | {"evaluate": {"measures": ["selective"]}}, "selective, which needs classes"),
    ],
)
def test_measures_that_the_data_cannot_have_are_refused(change, words):
    with pytest.raises(TombolaError, match=words):
        plan_study(unfold(RAW | change), dataset)


def test_inputs_that_are_no_images_have_neither_corruptions_nor_far_outliers(user_module):
    user_module(
        "points",
        """
        import torch
        from tombola.data import split
        def points():
            x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
            return split("points", x, (x[:, 0] > 0).long(), validation=50, test=100)
        """,
    )
    for measure, words in (("corrupted", "one or three channels"), ("ood", "it has no images")):
        raw = RAW | {"data": {"name": "points:points"}, "evaluate": {"measures": [measure]}}
        with pytest.raises(TombolaError, match=words):
            plan_study(unfold(raw), dataset)


def test_every_measure_is_a_choice_of_the_setting():
    from typing import get_args

    from tombola.settings import Measure

    assert set(get_args(Measure)) == MEASURES.keys()
