"""Selective prediction, outliers, prediction sets and temperature against peers, loops and closed forms."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtr

from tombola import metrics

FLOAT = torch.float64


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_probs(*shape: int, seed: int = 0, sharp: float = 2.0) -> torch.Tensor:
    return (sharp * torch.randn(*shape, generator=stream(seed), dtype=FLOAT)).softmax(-1)


def labels_of(probs_BC: torch.Tensor, seed: int = 1) -> torch.Tensor:
    return torch.multinomial(probs_BC, 1, generator=stream(seed))[:, 0]


ranked = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=7)
"""Pairs (uncertainty, wrong) with many ties."""


def tensors(pairs):
    return torch.tensor([float(u) for u, _ in pairs], dtype=FLOAT), torch.tensor([wrong for _, wrong in pairs])


def risks_by_loop(pairs):
    """Exact risks of the k surest, expected over the orders of ties."""
    found, answered, wrong = [], 0, Fraction(0)
    for level in sorted({u for u, _ in pairs}):
        tied = [w for u, w in pairs if u == level]
        for _ in tied:
            answered, wrong = answered + 1, wrong + Fraction(sum(tied), len(tied))
            found.append(wrong / answered)
    return found


@given(ranked)
def test_the_area_under_risks_is_that_of_a_loop_in_fractions(pairs):
    risks = risks_by_loop(pairs)
    assert metrics.aurc(*tensors(pairs)) == pytest.approx(float(sum(risks) / len(risks)), abs=1e-12)
    n, wrong = len(pairs), sum(w for _, w in pairs)
    best = sum(Fraction(max(0, k - (n - wrong)), k) for k in range(1, n + 1)) / n
    assert metrics.excess_aurc(*tensors(pairs)) == pytest.approx(float(sum(risks) / n - best), abs=1e-12)
    assert metrics.excess_aurc(*tensors(pairs)) >= -1e-12


@given(ranked, st.integers(1, 20))
def test_the_risk_at_a_coverage_is_that_of_the_loop(pairs, twentieths):
    k = math.ceil(Fraction(twentieths, 20) * len(pairs))
    assert metrics.risk_at_coverage(*tensors(pairs), twentieths / 20) == pytest.approx(float(risks_by_loop(pairs)[k - 1]))


def test_excess_of_a_large_sample_nears_the_closed_form_of_its_best_order():
    wrong = torch.arange(200_000) < 20_000
    best = metrics.aurc(wrong.double(), wrong)
    assert best == pytest.approx(0.1 + 0.9 * math.log(0.9), abs=1e-4)
    assert metrics.aurc(torch.zeros(200_000), wrong) == pytest.approx(0.1, abs=1e-12)  # no ranking: the error rate


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_auroc_counts_pairs_and_fpr_is_at_the_threshold(inside, outside):
    a, b = torch.tensor(inside, dtype=FLOAT), torch.tensor(outside, dtype=FLOAT)
    pairs = [(x < y) + (x == y) / 2 for x in inside for y in outside]
    assert metrics.auroc(a, b) == pytest.approx(sum(pairs) / len(pairs))
    threshold = min(t for t in inside if sum(x <= t for x in inside) >= 0.95 * len(inside) - 1e-9)
    assert metrics.fpr95(a, b) == pytest.approx(sum(y <= threshold for y in outside) / len(outside))


def test_two_normals_have_the_closed_forms():
    shift, n = 1.2, 200_000
    inside, outside = (torch.randn(n, generator=stream(s), dtype=FLOAT) for s in (0, 1))
    outside = outside + shift
    assert metrics.auroc(inside, outside) == pytest.approx(ndtr(shift / math.sqrt(2)), abs=3e-3)
    assert metrics.fpr95(inside, outside) == pytest.approx(ndtr(stats.norm.ppf(0.95) - shift), abs=6e-3)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_aupr_is_the_sum_of_precisions_over_the_steps_of_recall(inside, outside):
    expected, before = 0.0, 0
    for threshold in sorted(set(inside + outside), reverse=True):
        found, wrong = sum(y >= threshold for y in outside), sum(x >= threshold for x in inside)
        expected += (found - before) / len(outside) * found / (found + wrong)
        before = found
    assert metrics.aupr(*(torch.tensor(v, dtype=FLOAT) for v in (inside, outside))) == pytest.approx(expected)


def test_scores_of_uncertainty_are_the_formulas():
    probs_SBC = some_probs(3, 5, 4)
    found, mean = metrics.uncertainties(probs_SBC), probs_SBC.mean(0).numpy()
    assert found["confidence"].numpy() == pytest.approx(1 - mean.max(1))
    assert found["entropy"].numpy() == pytest.approx([stats.entropy(p) for p in mean])
    expected = [np.mean([stats.entropy(p) for p in probs_SBC[:, b].numpy()]) for b in range(5)]
    assert found["information"].numpy() == pytest.approx(found["entropy"].numpy() - expected)
    assert "information" not in metrics.uncertainties(probs_SBC[:1])


def test_the_temperature_is_found_again_and_is_the_best_of_a_grid():
    truth = some_probs(20_000, 5)
    labels = labels_of(truth)
    for wanted in (0.5, 1.0, 3.0):
        given_probs = (truth.log() * wanted).softmax(1)
        found = metrics.temperature(given_probs, labels)
        assert found == pytest.approx(wanted, rel=0.03)
        grid = [metrics.nll(metrics.tempered(given_probs, t), labels) for t in found * torch.linspace(0.8, 1.2, 9).exp()]
        assert metrics.nll(metrics.tempered(given_probs, found), labels) <= min(grid)
    assert torch.allclose(metrics.tempered(truth, 1.0), truth)


def test_a_faultless_prediction_gets_sure_and_zeros_are_no_trouble():
    probs, right = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]), torch.tensor([0, 1])
    found = metrics.temperature(probs, right)
    assert 0.01 <= found < 0.1
    assert metrics.nll(metrics.tempered(probs, found), right) < 1e-9
    assert 1 < metrics.temperature(probs, torch.tensor([2, 1])) <= 100


@given(st.integers(1, 40), st.integers(1, 19))
def test_the_threshold_is_the_order_statistic_with_the_correction(n, twentieths):
    scores = torch.randn(n, generator=stream(n), dtype=FLOAT)
    rank = math.ceil((n + 1) * Fraction(twentieths, 20))
    expected = scores.sort().values[rank - 1].item() if rank <= n else math.inf
    assert metrics.conformal_threshold(scores, twentieths / 20) == expected


def test_sets_cover_the_share_that_the_theorem_says():
    """Over many draws of calibration and test: Beta(k, N + 1 - k) has the mean k / (N + 1), k the rank."""
    probs, n, coverage = some_probs(60_000, 6, sharp=1.5), 49, 0.9
    labels, covered, sizes = labels_of(probs), [], []
    for rows in torch.randperm(60_000, generator=stream(2)).split(600):
        own, rest = rows[:n], rows[n:]
        found = metrics.conformal_classes(probs[own], labels[own], probs[rest], labels[rest], coverage)
        covered.append(found["conformal_coverage"])
        sizes.append(found["conformal_size"])
    assert np.mean(covered) == pytest.approx(math.ceil(50 * coverage) / 50, abs=4 * np.std(covered) / 10)
    assert 1 < np.mean(sizes) < 6


def test_few_calibration_examples_give_the_set_of_everything():
    probs = some_probs(8, 3)
    found = metrics.conformal_classes(probs[:4], labels_of(probs[:4]), probs, labels_of(probs), 0.9)
    assert found == {"conformal_coverage": 1.0, "conformal_size": 3.0}


def test_an_interval_is_the_mean_with_the_order_statistic_of_residuals():
    mean, target = torch.zeros(99, 1), torch.arange(1, 100).view(-1, 1).float()
    found = metrics.conformal_interval(mean, target, mean, target, 0.9)
    assert found == {"conformal_coverage": pytest.approx(90 / 99), "conformal_width": 180.0}


def adaptive_ece_by_loop(probs, labels, bins):
    confidence, right = probs.max(1), probs.argmax(1) == labels
    order = np.argsort(confidence, kind="stable")
    parts = [[i for r, i in enumerate(order) if r * bins // len(order) == k] for k in range(bins)]
    gaps = [abs(right[p].mean() - confidence[p].mean()) * len(p) for p in parts if p]
    return sum(gaps) / len(order)


@pytest.mark.parametrize("bins", [1, 7, 15, 200])
def test_adaptive_ece_is_the_loop_over_bins_of_equal_count(bins):
    probs = some_probs(103, 4)
    labels = torch.randint(4, (103,), generator=stream(3))
    expected = adaptive_ece_by_loop(probs.numpy(), labels.numpy(), bins)
    assert metrics.adaptive_ece(probs, labels, bins) == pytest.approx(expected, abs=1e-12)
    found = metrics.against_null(metrics.adaptive_ece, probs, labels, bins, 100, stream())
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.null_low <= found.null_mean <= found.null_high
    assert found.empty_bins == max(0, bins - 103)


def test_the_crps_of_a_mixture_is_the_integral_of_its_definition():
    means = torch.tensor([[0.3], [1.5], [-2.0]], dtype=FLOAT)
    x = np.linspace(-15, 15, 600_001)
    below = np.mean([ndtr((x - m) / 0.7) for m in means.flatten().numpy()], axis=0)
    for y in (-3.0, 0.2, 4.0):
        expected = np.trapezoid((below - (x >= y)) ** 2, x)
        assert metrics.crps(means, 0.7, torch.tensor([y])) == pytest.approx(expected, abs=1e-4)


def test_the_crps_of_one_normal_is_gneitings_closed_form_and_of_a_point_the_distance():
    means, y, std = torch.tensor([[1.0, -1.0]]), torch.tensor([0.5, 2.0]), 0.8
    z = (y.double() - means[0].double()).numpy() / std
    expected = std * (z * (2 * ndtr(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))
    assert metrics.crps(means, std, y) == pytest.approx(expected.mean(), abs=1e-12)
    assert metrics.crps(means, 1e-9, y) == pytest.approx(1.75, abs=1e-6)


def test_an_interval_has_its_mass():
    means = torch.randn(5, 40, 2, generator=stream(), dtype=FLOAT)
    low, high = metrics.interval(means, 0.3, 0.9)
    mass = [torch.special.ndtr((end - means) / 0.3).mean(0) for end in (low, high)]
    assert mass[0].numpy() == pytest.approx(0.05, abs=1e-12)
    assert mass[1].numpy() == pytest.approx(0.95, abs=1e-12)
    drawn = means[torch.randint(5, (40,), generator=stream()), torch.arange(40)]
    target = drawn + 0.3 * torch.randn(40, 2, generator=stream(5), dtype=FLOAT)
    found = metrics.intervals(means, 0.3, target)
    assert found["interval_coverage"] == ((low <= target) & (target <= high)).double().mean()
    assert found["interval_width"] == pytest.approx((high - low).mean().item())


def test_counts_are_scored_as_by_scipy_and_scikit_learn():
    from sklearn.metrics import mean_poisson_deviance

    log_rates = torch.randn(4, 30, 1, generator=stream(), dtype=FLOAT)
    y = torch.poisson(log_rates[0].exp(), generator=stream(1))
    found = metrics.counts(log_rates, y)
    mass = np.mean([stats.poisson.pmf(y.numpy(), rate) for rate in log_rates.exp().numpy()], axis=0)
    assert found["nll"] == pytest.approx(-np.log(mass).mean())
    mean = log_rates.exp().mean(0)
    assert found["deviance"] == pytest.approx(mean_poisson_deviance(y.flatten(), mean.flatten()))
    assert found["rmse"] == pytest.approx((mean - y).square().mean().sqrt().item())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.aurc(torch.zeros(3), torch.zeros(2, dtype=torch.bool)), "not one"),
        (lambda: metrics.aurc(torch.zeros(2), torch.zeros(2)), "bool is needed"),
        (lambda: metrics.aurc(torch.tensor([math.nan]), torch.tensor([True])), "NaN"),
        (lambda: metrics.risk_at_coverage(torch.zeros(2), torch.zeros(2, dtype=torch.bool), 0.0), "coverage is 0.0"),
        (lambda: metrics.auroc(torch.zeros(0), torch.zeros(2)), "inside_N has shape"),
        (lambda: metrics.fpr95(torch.zeros(2), torch.tensor([math.inf])), "outside_M holds a number"),
        (lambda: metrics.conformal_threshold(torch.zeros(2), 1.0), "coverage is 1.0"),
        (lambda: metrics.conformal_threshold(torch.zeros(0), 0.5), "at least one score"),
        (lambda: metrics.tempered(some_probs(2, 3), 0.0), "temperature is 0.0"),
        (lambda: metrics.crps(torch.zeros(2, 3), 0.0, torch.zeros(3)), "noise_std is 0.0"),
        (lambda: metrics.crps(torch.zeros(2, 3), 1.0, torch.zeros(2)), "each sample of means_SB"),
        (lambda: metrics.interval(torch.zeros(2, 3), 1.0, 0.0), "coverage is 0.0"),
        (lambda: metrics.counts(torch.zeros(1, 2), torch.tensor([0.5, 1.0])), "no count"),
        (lambda: metrics.counts(torch.zeros(2), torch.zeros(2)), "log_rates_SB has shape"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
