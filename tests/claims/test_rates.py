"""Verdicts err as rarely as they say: rates over simulated studies of 3, 5 and 10 seeds, and the power formula."""

import math

import numpy as np
import pytest
from scipy.stats import nct, t
from statsmodels.stats.power import TTestPower

from tombola.claims.contrasts import POINTS, Contrast
from tombola.claims.verdict import (
    ALPHA,
    CONTRADICTED,
    INCONCLUSIVE,
    SUPPORTED,
    UNTESTABLE,
    Joint,
    above,
    holm,
    matching,
    not_worse,
    outcome,
    power,
    under,
)

STUDIES = 2000
THREE = 3 * math.sqrt(ALPHA * (1 - ALPHA) / STUDIES)
"""Three standard errors of a rate of 5%."""
SEEDS = pytest.mark.parametrize("n", [3, 5, 10])


def contrasts(mean, sd, n, studies=STUDIES):
    values = np.random.default_rng([abs(round(1000 * mean)), n]).normal(mean, sd, (studies, n))
    return [Contrast("a minus b", dict(enumerate(row)), POINTS, ()) for row in values]


def rate(verdict, found):
    return sum(each.verdict == verdict for each in found) / len(found)


@SEEDS
@pytest.mark.parametrize("part", [above, under])
def test_without_a_difference_a_directed_claim_is_supported_and_contradicted_in_five_of_a_hundred_studies(part, n):
    found = [outcome(part(each)) for each in contrasts(0.0, 1.0, n)]
    assert rate(SUPPORTED, found) == pytest.approx(ALPHA, abs=THREE)
    assert rate(CONTRADICTED, found) == pytest.approx(ALPHA, abs=THREE)


@SEEDS
def test_the_interval_has_the_mean_in_nine_of_ten_studies(n):
    found = [outcome(above(each)) for each in contrasts(0.3, 2.0, n)]
    assert np.mean([each.low < 0.3 < each.high for each in found]) == pytest.approx(0.9, abs=3 * math.sqrt(0.09 / STUDIES))


@SEEDS
@pytest.mark.parametrize("sd", [0.1, 1.0])
def test_at_the_border_a_match_is_wrong_in_at_most_five_of_a_hundred_studies(n, sd):
    found = [outcome(matching(each, 0.5)) for each in contrasts(0.5, sd, n)]
    assert rate(SUPPORTED, found) <= ALPHA + THREE
    assert rate(CONTRADICTED, found) <= ALPHA + THREE


@SEEDS
def test_a_ticket_worse_by_the_margin_is_called_not_worse_in_five_of_a_hundred_studies(n):
    found = [outcome(not_worse(each, 0.5)) for each in contrasts(-0.5, 0.4, n)]
    assert rate(SUPPORTED, found) == pytest.approx(ALPHA, abs=THREE)
    assert rate(CONTRADICTED, found) == pytest.approx(ALPHA, abs=THREE)


@SEEDS
def test_several_parts_are_wrongly_supported_or_contradicted_no_more_often(n):
    """Of two parts one holds by far and one is at its border; then of three at the border any may contradict."""
    sure, border = contrasts(3.0, 0.2, n), contrasts(0.0, 1.0, n)
    joint = [Joint([outcome(above(a)), outcome(above(b))]) for a, b in zip(sure, border, strict=True)]
    assert rate(SUPPORTED, joint) <= ALPHA + THREE
    three = np.array_split([outcome(above(each)).p_outside for each in contrasts(0.0, 1.0, n, 3 * STUDIES)], STUDIES)
    assert np.mean([3 * min(each) < ALPHA for each in three]) <= ALPHA + THREE


def test_holm_lets_a_table_of_true_null_hypotheses_err_in_five_of_a_hundred_studies():
    tables = [outcome(above(each)).p_inside for each in contrasts(0.0, 1.0, 5, 20 * STUDIES // 4)]
    errs = [min(holm(list(table))) < ALPHA for table in np.array_split(tables, STUDIES // 4)]
    assert np.mean(errs) <= ALPHA + 2 * THREE


@SEEDS
@pytest.mark.parametrize("sd", [0.1, 0.25, 0.4])
def test_the_power_of_a_match_is_the_rate_of_supported_without_a_difference(n, sd):
    found = [outcome(matching(each, 0.5)) for each in contrasts(0.0, sd, n)]
    assert rate(SUPPORTED, found) == pytest.approx(power(sd, n, -0.5, 0.5), abs=3 * math.sqrt(0.25 / STUDIES))


@pytest.mark.parametrize("n", [3, 5, 10, 30])
@pytest.mark.parametrize("effect", [0.2, 1.0, 2.5])
def test_the_power_of_not_worse_is_that_of_the_noncentral_t(n, effect):
    exact = nct.sf(t.ppf(1 - ALPHA, n - 1), n - 1, effect * math.sqrt(n))
    assert power(1.0, n, -effect, math.inf) == pytest.approx(exact, abs=1e-3)
    assert power(1.0, n, -math.inf, effect) == pytest.approx(exact, abs=1e-3)
    assert exact == pytest.approx(TTestPower().power(effect, n, ALPHA, alternative="larger"), abs=1e-6)


@pytest.mark.parametrize("n", [200, 1000])
def test_of_many_seeds_the_power_of_a_match_is_that_of_the_normal_test(n):
    """Two one-sided z tests: 2 Phi(margin / error - z) - 1."""
    error = 0.4 * 0.5
    exact = 2 * t.cdf(0.5 / error - t.ppf(0.95, 10**6), 10**6) - 1
    assert power(error * math.sqrt(n), n, -0.5, 0.5) == pytest.approx(exact, abs=0.01)


def test_a_match_without_power_is_not_testable_and_a_directed_claim_is_inconclusive():
    wide, narrow = (
        Contrast("", dict(enumerate(values)), POINTS, ()) for values in ((-2, 2.1, 1, -1, 0), (0.1, 0.9, 0.5, 0.4, 0.6))
    )
    assert Joint([outcome(matching(wide, 0.5))]).verdict == UNTESTABLE
    assert outcome(matching(wide, 0.5)).power < 0.01
    assert Joint([outcome(matching(narrow, 0.5))]).verdict == INCONCLUSIVE
    assert outcome(matching(narrow, 0.5)).power > 0.5
    assert Joint([outcome(not_worse(wide, 0.5))]).verdict == INCONCLUSIVE  # a better ticket can show that it is not worse
    assert math.isnan(Joint([outcome(above(wide))]).power)
    assert Joint([outcome(matching(narrow, 0.5)), outcome(matching(wide, 0.5))]).verdict == UNTESTABLE


@SEEDS
def test_by_itself_a_row_of_many_parts_is_wrongly_contradicted_no_more_often(n):
    parts = np.array_split([outcome(above(each)) for each in contrasts(0.0, 1.0, n, 10 * STUDIES // 2)], STUDIES // 2)
    assert rate(CONTRADICTED, [Joint(list(each)) for each in parts]) <= ALPHA + math.sqrt(2) * THREE


def test_a_collapsed_ticket_has_no_power_to_be_not_worse():
    """Its values would be "supported", and a ticket at chance never is."""
    collapsed = Contrast("", dict(enumerate((-0.1, 0.0, 0.1))), POINTS, (), at_chance=("a",), pull=-1)
    assert math.isnan(outcome(not_worse(collapsed, 1.0)).power)
