"""The statistics of claims against hand-computed numbers and statsmodels, and how often they err."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from support.claim_records import rows_of
from tombola.claims.contrasts import POINTS, Contrast, area, below, depth_correlation, every, near
from tombola.claims.curves import MU, SNR, Grid, Missing, grid
from tombola.claims.verdict import (
    CONTRADICTED,
    INCONCLUSIVE,
    SUPPORTED,
    Joint,
    above,
    between,
    holm,
    matching,
    outcome,
    under,
)

ROOT = math.sqrt(5)
SEEDS = st.lists(st.floats(-3, 3), min_size=2, max_size=12).filter(lambda values: np.std(values) > 1e-3)


def contrast(*values):
    return Contrast("a minus b", pd.Series(values, dtype=float), POINTS, ())


def grid_of(values, density):
    table = pd.DataFrame(values)
    return Grid("a", table, table.astype(str), pd.Series(density))


def test_an_interval_by_hand():
    """Mean 2, standard deviation sqrt(2.5), five seeds: t(4) at 95% is 2.131847."""
    found = outcome(above(contrast(0, 1, 2, 3, 4)))
    half = 2.131847 * math.sqrt(2.5) / ROOT
    assert (found.mean, found.n) == (2.0, 5)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), rel=1e-6)
    assert found.verdict == SUPPORTED
    assert outcome(under(contrast(0, 1, 2, 3, 4))).verdict == CONTRADICTED
    assert outcome(above(contrast(0, 1, 2, 3, 4), 1.0)).verdict == INCONCLUSIVE  # 2 - half is 0.49
    assert outcome(above(contrast(0, 1, 2, 3, 4), 4.0)).verdict == CONTRADICTED


def test_a_p_value_by_hand():
    """Two seeds have a Cauchy t: P(t > 1) = 1/4; of values 0 and 2, mean 1 and standard error 1."""
    assert outcome(above(contrast(0, 2))).p_inside == pytest.approx(0.25)
    assert outcome(above(contrast(0, 2))).p_outside == pytest.approx(0.75)
    assert outcome(matching(contrast(0, 2), 2.0)).p_inside == pytest.approx(0.25)  # the nearer border counts
    assert outcome(matching(contrast(0, 2), 1.0)).p_outside == pytest.approx(0.5)


@given(SEEDS, st.floats(0.1, 2))
def test_matching_is_the_paired_tost_of_statsmodels(values, margin):
    a = np.linspace(80, 90, len(values))
    p, _, _ = ttost_paired(a + np.array(values), a, -margin, margin)
    found = outcome(matching(contrast(*((a + np.array(values)) - a)), margin))
    assert found.p_inside == pytest.approx(p, abs=1e-9)
    assert (found.verdict == SUPPORTED) == (found.p_inside < 0.05)


@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=8).filter(lambda v: np.std(v) > 1e-3),
    st.floats(-2, 0),
    st.floats(0.1, 2),
)
def test_the_interval_and_the_two_tests_say_the_same(values, low, high):
    found = outcome(between(contrast(*values), low, high))
    assert (found.verdict == SUPPORTED) == (found.p_inside < 0.05)
    assert (found.verdict == CONTRADICTED) == (found.p_outside < 0.05)


def test_equal_differences_decide_without_a_variance():
    assert outcome(matching(contrast(0, 0, 0), 0.5)).verdict == SUPPORTED
    assert outcome(matching(contrast(1, 1), 0.5)).verdict == CONTRADICTED
    on_the_border = outcome(above(contrast(0, 0, 0)))
    assert (on_the_border.verdict, on_the_border.p_inside, on_the_border.p_outside) == (INCONCLUSIVE, 1.0, 1.0)


def test_one_seed_decides_nothing():
    found = outcome(above(contrast(5.0)))
    assert (found.n, found.verdict) == (1, INCONCLUSIVE)
    assert math.isnan(found.low)
    assert math.isnan(Joint([found]).p_inside)
    assert math.isnan(Joint([found]).p_outside)


def test_all_parts_must_hold_and_any_contradicts():
    yes, no, unknown = (outcome(above(contrast(*v))) for v in ((2, 2.1), (-2, -2.1), (-2, 3)))
    assert Joint([yes, yes]).verdict == SUPPORTED
    assert Joint([yes, unknown]).verdict == INCONCLUSIVE
    assert Joint([yes, unknown, no]).verdict == CONTRADICTED
    assert Joint([yes, unknown]).deciding is unknown
    assert Joint([yes, unknown, no]).deciding is no
    assert Joint([yes, unknown]).p_inside == unknown.p_inside
    assert Joint([yes, no]).p_outside == pytest.approx(2 * no.p_outside)


def test_holm_by_hand():
    """Sorted .005, .01, .03, .04 times 4, 3, 2, 1 and never falling: .02, .03, .06, .06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.3]) == [0.3]


def test_holm_is_its_definition():
    """The i-th smallest of m counts m - i times (from 0), and no p value is adjusted below a smaller one's."""
    p_values = np.random.default_rng(1).uniform(0, 0.2, 30)
    expected = [max(min(1.0, (30 - i) * p) for i, p in enumerate(sorted(p_values)) if p <= own) for own in p_values]
    assert holm(list(p_values)) == pytest.approx(expected)


@pytest.mark.parametrize("n", [2, 7, 40])
def test_holm_is_that_of_statsmodels(n):
    p_values = np.random.default_rng(n).uniform(0, 0.3, n).round(2)  # with ties
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_under_no_difference_a_directed_claim_is_supported_in_five_of_a_hundred_studies():
    rng = np.random.default_rng(3)
    found = [outcome(above(contrast(*rng.normal(0, 1, 5)))).verdict for _ in range(2000)]
    assert found.count(SUPPORTED) / 2000 == pytest.approx(0.05, abs=0.015)  # three standard errors
    assert found.count(CONTRADICTED) / 2000 == pytest.approx(0.05, abs=0.015)


def test_at_the_border_of_the_margin_matching_is_supported_in_at_most_five_of_a_hundred_studies():
    rng = np.random.default_rng(4)
    found = [outcome(matching(contrast(*rng.normal(0.5, 0.2, 5)), 0.5)).verdict for _ in range(1000)]
    assert found.count(SUPPORTED) / 1000 == pytest.approx(0.05, abs=0.021)


def test_the_area_is_the_mean_over_log_density():
    """Of .9 + .1 log d from d = 1 to d = e^-3 the mean is .9 - .15; trapezoids are exact for straight lines."""
    density = [1.0, math.exp(-0.5), math.exp(-2), math.exp(-3)]
    line = [0.9 + 0.1 * math.log(d) for d in density]
    found = area(grid_of([line, line], density), grid_of([[0.0] * 4] * 2, density))
    assert list(found.values) == pytest.approx([75.0, 75.0])


@given(st.lists(st.tuples(st.floats(0.01, 0.9), st.floats(0, 1)), min_size=2, max_size=10))
def test_the_area_is_numpys(points):
    density = np.cumprod([share for share, _ in points])
    values = np.array([value for _, value in points])
    x = np.log(density)
    expected = 100 * np.trapezoid(values, x) / (x[-1] - x[0])
    found = area(grid_of([values], density), grid_of([np.zeros(len(values))], density))
    assert found.values[0] == pytest.approx(expected, abs=1e-9)


def test_levels_are_named_by_their_density():
    a, b = (grid(curve, pd.concat([rows_of(SNR), rows_of(MU)]), "accuracy") for curve in (SNR, MU))
    assert near(a, b, density=0.1).words.endswith("at 10.7% left")
    assert near(a, b, density=0.5).words.endswith("at 41% left")  # .41 is nearer in ratio than .64
    assert near(a, b, density=0.012).words.endswith("at 1.15% left")
    assert len(every(a, b, start=2, stop=5)) == 4
    assert below(a, b, density=0.02).words.endswith("mean below 2% left (at 1.8%, 1.15%)")
    with pytest.raises(Missing, match=r"a level near 0.5% left \(within a factor of 1.5\)"):
        near(a, b, density=0.005)


def test_the_mean_below_a_density_is_that_of_its_levels():
    density = [1.0, 0.5, 0.019, 0.01]
    found = below(grid_of([[0.9, 0.8, 0.5, 0.3]], density), grid_of([[0.0] * 4], density), density=0.02)
    assert found.values[0] == pytest.approx(40.0)


def test_depth_correlation_is_minus_one_where_density_falls_with_depth():
    densities = grid_of([['{"a": 0.3, "b": 0.2, "c": 0.1}'], ['{"a": 0.1, "b": 0.3, "c": 0.2}']], [0.012])
    assert list(depth_correlation(densities, density=0.012).values) == pytest.approx([-1.0, 0.5])
    with pytest.raises(Missing, match="three or more prunable layers"):
        depth_correlation(grid_of([['{"a": 0.3, "b": 0.2}']], [0.012]), density=0.012)
