"""Abstention: thresholds by coverage and by risk against brute force, and what they promise against simulations."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tombola import TombolaError
from tombola.predict import abstain_at
from tombola.predict.abstention import binomial_bound, parse_target, right_of


@given(
    st.lists(st.tuples(st.sampled_from([0.2, 0.4, 0.5, 0.7, 0.9, 1.0]), st.booleans()), min_size=1, max_size=40),
    st.floats(0.01, 1),
)
def test_a_coverage_is_reached_by_the_largest_threshold(examples, coverage):
    confidence, right = (torch.tensor(part) for part in zip(*examples, strict=True))
    rule = abstain_at(confidence, right, coverage=coverage)
    accepted = rule.accepts(confidence.double())
    assert accepted.double().mean() >= coverage - 1e-9
    assert rule.coverage == pytest.approx(accepted.double().mean())
    assert rule.risk == pytest.approx((~right[accepted]).double().mean())
    larger = confidence.double().unique()
    larger = larger[larger > rule.threshold]
    if len(larger):
        assert (confidence.double() >= larger[0]).double().mean() < coverage


def test_the_bound_is_that_of_clopper_and_pearson():
    for errors, count, delta in ((0, 50, 0.1), (3, 100, 0.05), (10, 12, 0.01)):
        bound = binomial_bound(errors, count, delta)
        assert stats.binom(count, bound).cdf(errors) == pytest.approx(delta)
    assert binomial_bound(5, 5, 0.1) == 1
    assert binomial_bound(0, 100, 0.1) == pytest.approx(1 - 0.1 ** (1 / 100))


def test_a_promised_risk_holds_in_nine_of_ten_draws():
    """A confidence c is right with probability (1 + c) / 2: the true risk of a threshold t is (1 - t) / 4."""
    generator = torch.Generator().manual_seed(0)
    broken, accepted = 0, 0.0
    for _ in range(200):
        confidence = torch.rand(3000, generator=generator, dtype=torch.float64)
        right = torch.rand(3000, generator=generator) < (1 + confidence) / 2
        rule = abstain_at(confidence, right, risk=0.1)
        broken += (1 - rule.threshold) / 4 > 0.1
        accepted += rule.coverage / 200
        assert rule.bound <= 0.1
    assert broken / 200 <= 0.1
    assert 0.25 < accepted < 0.4  # one that knew the truth would accept 0.4


def test_equal_confidences_are_accepted_together():
    rule = abstain_at(torch.tensor([0.9, 0.5, 0.5, 0.5]), torch.tensor([True, False, True, True]), coverage=0.5)
    assert (rule.threshold, rule.coverage, rule.risk) == (0.5, 1.0, 0.25)


def test_what_cannot_be_chosen_is_refused():
    confidence, right = torch.rand(20), torch.ones(20, dtype=torch.bool)
    with pytest.raises(TombolaError, match=r"risk=0.01 cannot be promised by 20 held-out examples"):
        abstain_at(confidence, right, risk=0.01)
    with pytest.raises(TombolaError, match="give one of them"):
        abstain_at(confidence, right)
    with pytest.raises(TombolaError, match="give one of them"):
        abstain_at(confidence, right, risk=0.1, coverage=0.5)
    with pytest.raises(TombolaError, match="coverage is 0; it must be above 0"):
        abstain_at(confidence, right, coverage=0)
    with pytest.raises(TombolaError, match="risk is 1; it must be"):
        abstain_at(confidence, right, risk=1)
    with pytest.raises(TombolaError, match="20 confidences for 3 targets"):
        abstain_at(confidence, right[:3], coverage=0.5)


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (torch.tensor([0, 1, 7]), "there is no class 7 among the targets' 3, which are numbered from 0"),
        (torch.tensor([0, -1, 2]), "there is no class -1 among"),
        (torch.tensor([0.0, 1.0, 2.0]), "give a class number each"),
        (np.array([b"a", b"b", b"c"]), "targets are no class numbers"),
    ],
)
def test_targets_that_are_no_classes_are_refused(targets, sentence):
    with pytest.raises(TombolaError, match=sentence):
        right_of(torch.tensor([0, 1, 2]), targets, 3)
    assert right_of(torch.tensor([0, 1, 2]), torch.tensor([0, 2, 2]), 3).tolist() == [True, False, True]


def test_targets_are_read_from_text():
    assert parse_target("risk=0.05") == {"risk": 0.05}
    assert parse_target("coverage=1") == {"coverage": 1.0}
    for text in ("", "0.9", "risk", "risk=", "risk=x", "accuracy=0.9", "risk=nan"):
        with pytest.raises(TombolaError, match="--abstain-at is"):
            parse_target(text)
