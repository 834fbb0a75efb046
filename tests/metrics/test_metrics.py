"""Metrics against formulas written as plain loops, scikit-learn, torch.distributions and cases checked by hand."""

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from tombola import metrics

P, Y, FLAT = torch.tensor([[0.75, 0.25]] * 2), torch.tensor([0, 1]), torch.zeros(3)  # of two examples one is right


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def predictions(examples: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities and labels drawn from them: a perfectly calibrated model."""
    generator = stream(seed)
    logits_BC = 2 * torch.randn(examples, classes, generator=generator, dtype=torch.float64)
    return logits_BC.softmax(1), logits_BC.softmax(1).multinomial(1, generator=generator)[:, 0]


def loop_metric(name: str, probs: list[list[float]], labels: list[int], bins: int) -> tuple[float, int]:
    """The value and the number of empty bins, from the formulas over bins (k/bins, (k+1)/bins] and 0 in the first."""
    top = [(max(row), row.index(max(row)) == label) for row, label in zip(probs, labels, strict=True)]
    every = [(p, c == label) for row, label in zip(probs, labels, strict=True) for c, p in enumerate(row)]
    points = every if name == "mace_coded" else top
    edges = [-1.0, *(k / bins for k in range(1, bins)), 2.0]  # a sum may round to above 1
    binned = [[point for point in points if edges[k] < point[0] <= edges[k + 1]] for k in range(bins)]
    filled = [(k, *zip(*inside, strict=True)) for k, inside in enumerate(binned) if inside]
    total = 0.0
    for k, confidences, correct in filled:
        confidence = (k + 0.5) / bins if name == "mace_coded" else statistics.fmean(confidences)
        weight = len(correct) / len(probs) if name == "ece" else 1 / len(filled)
        total += weight * abs(statistics.fmean(correct) - confidence)
    return total, binned.count([])


@st.composite
def binned_predictions(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Random rows, of which some lie on the edges of the bins: whole numbers of them, with exact 0 and 1."""
    bins, classes = draw(st.sampled_from([1, 2, 3, 7, 10, 15, 49, 100])), draw(st.integers(2, 5))
    cuts = st.lists(st.integers(0, bins), min_size=classes - 1, max_size=classes - 1).map(sorted)
    on_edges = cuts.map(lambda c: [(b - a) / bins for a, b in zip([0, *c], [*c, bins], strict=True)])
    weights = st.lists(st.floats(1e-6, 1), min_size=classes, max_size=classes)
    rows = draw(st.lists(on_edges | weights.map(lambda w: [x / sum(w) for x in w]), min_size=1, max_size=12))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=len(rows), max_size=len(rows)))
    return torch.tensor(rows, dtype=torch.float64), torch.tensor(labels), bins


@given(binned_predictions())
@settings(deadline=None)
def test_calibration_and_scores_are_their_formulas(case):
    probs_BC, labels_B, bins = case
    probs, labels = probs_BC.tolist(), labels_B.tolist()
    for name, metric in metrics.CALIBRATION.items():
        value, empty = loop_metric(name, probs, labels, bins)
        found = metrics.against_null(metric, probs_BC, labels_B, bins, 100, stream())
        assert metric(probs_BC, labels_B, bins) == found.value == pytest.approx(value, abs=1e-12)
        assert found.empty_bins == empty
    costs = [-math.log(max(row[label], 2.0**-1022)) for row, label in zip(probs, labels, strict=True)]
    entropies = [-sum(p * math.log(p) for p in row if p > 0) for row in probs]
    assert metrics.nll(probs_BC, labels_B) == pytest.approx(statistics.fmean(costs), abs=1e-12)
    assert metrics.predictive_entropy(probs_BC) == pytest.approx(statistics.fmean(entropies), abs=1e-12)
    assert 0 <= metrics.mutual_information(probs_BC.expand(3, -1, -1)) < 1e-12


def test_scores_agree_with_scikit_learn():
    probs_BC, labels_B = predictions(300, 4)
    assert metrics.accuracy(probs_BC, labels_B) == pytest.approx(accuracy_score(labels_B, probs_BC.argmax(1)))
    assert metrics.nll(probs_BC, labels_B) == pytest.approx(log_loss(labels_B, probs_BC), abs=1e-12)
    per_class = [brier_score_loss((labels_B == c).int(), probs_BC[:, c]) for c in range(4)]
    assert metrics.brier(probs_BC, labels_B) == pytest.approx(sum(per_class), abs=1e-12)


def test_small_cases_by_hand():
    assert metrics.accuracy(P, Y) == 0.5
    assert metrics.brier(P, Y) == pytest.approx((2 * 0.25**2 + 2 * 0.75**2) / 2)
    # top label: both points in (0.5, 1], accuracy 0.5, confidence 0.75
    assert metrics.ece(P, Y, 2) == metrics.mace(P, Y, 2) == 0.25
    # every class: half of each bin's points are hits; the centres are 0.25 and 0.75
    assert metrics.mace_coded(P, Y, 2) == 0.25
    # two bins with three points and one: gaps 0.75 - 2/3 and 1 - 0
    probs_BC, labels_B = torch.tensor([[0.75, 0.25]] * 3 + [[0.0, 1.0]]), torch.tensor([0, 0, 1, 0])
    assert metrics.ece(probs_BC, labels_B, 4) == pytest.approx((3 * (1 / 12) + 1) / 4)
    assert metrics.mace(probs_BC, labels_B, 4) == pytest.approx((1 / 12 + 1) / 2)
    # a label held impossible, and two samples that are sure of opposite classes
    certain_BC = torch.tensor([[1.0, 0.0]])
    assert metrics.nll(certain_BC, torch.tensor([1])) == pytest.approx(1022 * math.log(2))
    opposed_SBC = torch.stack([certain_BC, certain_BC.flip(1)])
    assert metrics.mutual_information(opposed_SBC) == pytest.approx(math.log(2))
    assert metrics.mutual_information(certain_BC.expand(5, 1, 2)) == 0
    # two repeats
    rows = [{"accuracy": 0.5, "nll": 1.0}, {"accuracy": 0.7, "nll": 3.0}]
    assert metrics.mean_over_repeats(rows) == pytest.approx({"accuracy": 0.6, "nll": 2, "accuracy_sd": 0.02**0.5})
    for single in (rows[:1], [{"nll": 1.0}] * 2):
        assert math.isnan(metrics.mean_over_repeats(single)["accuracy_sd"])


@pytest.mark.parametrize("name", metrics.CALIBRATION)
def test_null_is_the_public_metric_over_redrawn_labels(name):
    metric = metrics.CALIBRATION[name]
    probs_BC, labels_B = predictions(200, 5)
    found = metrics.against_null(metric, probs_BC, labels_B, 15, 120, stream(3))
    redrawn_BR = probs_BC.multinomial(120, replacement=True, generator=stream(3))
    null = [metric(probs_BC, labels_B, 15) for labels_B in redrawn_BR.T]
    assert found.null_mean == pytest.approx(statistics.fmean(null), abs=1e-12)
    assert [found.null_low, found.null_high] == pytest.approx(np.quantile(null, [0.025, 0.975]), abs=1e-12)
    assert found == metrics.against_null(metric, probs_BC.T.contiguous().T, labels_B, 15, 120, stream(3))
    assert found != metrics.against_null(metric, probs_BC, labels_B, 15, 120, stream(4))


@pytest.mark.parametrize("name", metrics.CALIBRATION)
def test_excess_is_zero_when_calibrated_and_positive_when_over_confident(name):
    probs_BC, labels_B = predictions(4000, 5)
    calibrated = metrics.against_null(metrics.CALIBRATION[name], probs_BC, labels_B, 10, 200, stream())
    assert abs(calibrated.excess) < calibrated.null_high - calibrated.null_low
    sharp_BC = (3 * probs_BC.log()).softmax(1)
    sharp = metrics.against_null(metrics.CALIBRATION[name], sharp_BC, labels_B, 10, 200, stream())
    assert sharp.null_high < sharp.value > sharp.null_mean + 0.1


def test_summary_has_each_metric_of_the_mean_prediction():
    probs_SBC, labels_B = torch.stack([predictions(50, 3, seed)[0] for seed in (1, 2)]), predictions(50, 3)[1]
    row = metrics.classification(probs_SBC, labels_B, bins=8, generator=stream())
    scores = ["accuracy", "nll", "brier", "predictive_entropy", "mutual_information"]
    parts = ("", "_null", "_null_low", "_null_high", "_excess", "_empty_bins")
    assert list(row) == scores + [name + part for name in metrics.CALIBRATION for part in parts]
    assert all(type(value) is float for value in row.values())
    mean_BC = probs_SBC.mean(0)
    assert row["nll"] == metrics.nll(mean_BC, labels_B)
    assert row["mutual_information"] == metrics.mutual_information(probs_SBC) > 0
    for name, metric in metrics.CALIBRATION.items():
        assert row[name] == metric(mean_BC, labels_B, 8)
        assert row[f"{name}_excess"] == row[name] - row[f"{name}_null"]
        assert row[f"{name}_empty_bins"] == loop_metric(name, mean_BC.tolist(), labels_B.tolist(), 8)[1]


@pytest.mark.parametrize("outputs", [(), (1,), (3,)])
def test_regression_agrees_with_the_mixture_of_torch_distributions(outputs):
    means_SB = torch.randn(4, 6, *outputs, generator=stream(), dtype=torch.float64)
    target_B = torch.randn(6, *outputs, generator=stream(1), dtype=torch.float64)
    normals_BS = Independent(Normal(means_SB.transpose(0, 1), 0.3), len(outputs))
    mixture = MixtureSameFamily(Categorical(torch.ones(6, 4, dtype=torch.float64)), normals_BS)
    row = metrics.regression(means_SB, 0.3, target_B)
    assert row["nll"] == pytest.approx(-mixture.log_prob(target_B).mean().item(), abs=1e-12)
    distance = math.dist(means_SB.mean(0).flatten().tolist(), target_B.flatten().tolist())
    assert row["rmse"] == pytest.approx(distance / math.sqrt(target_B.numel()), abs=1e-12)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.booleans()), max_size=12))
@settings(deadline=None)
def test_drift_is_its_formulas_over_kept_weights(weights):
    columns = torch.tensor(weights, dtype=torch.float32).reshape(-1, 3)
    drift = metrics.log_std_drift(columns[:, 0], columns[:, 1], columns[:, 2].bool())
    before, after = [b for b, _, kept in weights if kept], [a for _, a, kept in weights if kept]
    change = [a - b for b, a in zip(before, after, strict=True)]
    expected = [statistics.fmean(change), statistics.pstdev(change)] if change else [math.nan, math.nan]
    assert list(drift.values())[:2] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    if len(change) < 3 or len(set(before)) == 1 or len(set(after)) == 1:
        assert math.isnan(drift["drift_rank"])
    else:  # ties share the mean of their ranks
        ranks = [[sum(x < y for x in v) + sum(x == y for x in v) / 2 for y in v] for v in (before, after)]
        assert drift["drift_rank"] == pytest.approx(statistics.correlation(*ranks), abs=1e-12)


@pytest.mark.parametrize(
    ("call", "culprit"),
    [
        (lambda: metrics.accuracy(P[0], Y), r"probs_BC has shape \(2,\)"),
        (lambda: metrics.accuracy(P, Y + 1), "label 2, the classes are 0 to 1"),
        (lambda: metrics.nll(P, Y - 1), "label -1"),
        (lambda: metrics.nll(P, Y[:1]), r"labels_B has shape \(1,\)"),
        (lambda: metrics.brier(P, Y.float()), "dtype torch.float32"),
        (lambda: metrics.brier(P * 2, Y), "sums to 2.0"),
        (lambda: metrics.brier(P * math.nan, Y), "sums to nan"),
        (lambda: metrics.predictive_entropy(torch.tensor([[1.5, -0.5]])), "negative probability -0.5"),
        (lambda: metrics.mutual_information(P), "probs_SBC"),
        (lambda: metrics.ece(P, Y, 0), "bins is 0"),
        (lambda: metrics.against_null(metrics.ece, P, Y, 15, 99, stream()), "redraws is 99"),
        (lambda: metrics.rmse(FLAT, FLAT[:2]), r"mean_B has shape \(3,\), the target \(2,\)"),
        (lambda: metrics.gaussian_nll(FLAT[None], 0.0, FLAT), "noise_std is 0.0"),
        (lambda: metrics.gaussian_nll(FLAT[None, :, None], 1.0, FLAT), r"\(3, 1\), the target \(3,\)"),
        (lambda: metrics.mean_over_repeats([{"nll": 1.0}, {"rmse": 1.0}]), r"\['nll', 'rmse'\]"),
        (lambda: metrics.log_std_drift(FLAT, FLAT[:2], FLAT.bool()), r"\[\(3,\), \(2,\), \(3,\)\]"),
        (lambda: metrics.log_std_drift(FLAT, FLAT, FLAT), "keep has dtype torch.float32"),
    ],
)
def test_bad_input_names_the_culprit_and_its_value(call, culprit):
    with pytest.raises(ValueError, match=culprit):
        call()
