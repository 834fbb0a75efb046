"""The statistics of claims against numbers by hand and statsmodels."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

from support.claim_records import rows_of
from tombola.claims.contrasts import POINTS, Contrast, area, below, depth_correlation, every, first_level, near
from tombola.claims.curves import MU, SNR, Grid, Missing, Rows
from tombola.claims.verdict import (
    CONTRADICTED,
    INCONCLUSIVE,
    NO_VERDICT,
    SUPPORTED,
    Joint,
    above,
    between,
    holm,
    matching,
    not_worse,
    outcome,
    under,
)

ROOT = math.sqrt(5)
SEEDS = st.lists(st.floats(-3, 3), min_size=3, max_size=12).filter(lambda values: np.std(values) > 1e-3)


def contrast(*values):
    return Contrast("a minus b", dict(enumerate(values)), POINTS, ())


def grid_of(values, density):
    table = {(seed, level): value for seed, row in enumerate(values) for level, value in enumerate(row)}
    return Grid("a", table, {at: str(at) for at in table}, dict(enumerate(density)))


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
    """Three seeds: P(t(2) > x) = 1/2 - x / (2 sqrt(2 + x^2)); of 0, 1 and 2, mean 1 and standard error 1/sqrt(3)."""
    tail = 0.5 - math.sqrt(3) / (2 * math.sqrt(5))
    assert outcome(above(contrast(0, 1, 2))).p_inside == pytest.approx(tail)
    assert outcome(above(contrast(0, 1, 2))).p_outside == pytest.approx(1 - tail)
    assert outcome(matching(contrast(0, 1, 2), 2.0)).p_inside == pytest.approx(tail)  # the nearer border counts
    assert outcome(matching(contrast(0, 1, 2), 1.0)).p_outside == pytest.approx(0.5)


@given(SEEDS, st.floats(-2, 2))
def test_interval_and_tests_are_those_of_statsmodels(values, border):
    found, theirs = outcome(above(contrast(*values), border)), DescrStatsW(values)
    assert (found.low, found.high) == pytest.approx(theirs.tconfint_mean(alpha=0.1))
    assert found.p_inside == pytest.approx(theirs.ttest_mean(border, "larger")[1], abs=1e-9)
    assert found.p_outside == pytest.approx(theirs.ttest_mean(border, "smaller")[1], abs=1e-9)


@given(SEEDS, st.floats(0.1, 2))
def test_matching_is_the_paired_tost_of_statsmodels(values, margin):
    a = np.linspace(80, 90, len(values))
    p, _, _ = ttost_paired(a + np.array(values), a, -margin, margin)
    found = outcome(matching(contrast(*((a + np.array(values)) - a)), margin))
    assert found.p_inside == pytest.approx(p, abs=1e-9)
    assert (found.verdict == SUPPORTED) == (found.p_inside < 0.05)


@given(
    st.lists(st.floats(-3, 3), min_size=3, max_size=8).filter(lambda v: np.std(v) > 1e-3),
    st.floats(-2, 0),
    st.floats(0.1, 2),
)
def test_the_interval_and_the_two_tests_say_the_same(values, low, high):
    found = outcome(between(contrast(*values), low, high))
    assert (found.verdict == SUPPORTED) == (found.p_inside < 0.05)
    assert (found.verdict == CONTRADICTED) == (found.p_outside < 0.05)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((5.0,), "1 seed: no verdict below 3"),
        ((5.0, 5.1), "2 seeds: no verdict below 3"),
        ((0.1 + 0.2, 0.3, 0.3), "all seeds have the same value: no verdict without a variance"),
    ],
)
def test_too_few_seeds_and_no_variance_have_no_verdict(values, reason):
    found = outcome(above(contrast(*values)))
    assert (found.verdict, found.reason, found.n) == (NO_VERDICT, reason, len(values))
    numbers = (found.low, found.high, found.p_inside, found.p_outside, Joint([found]).p_inside, Joint([found]).p_outside)
    assert all(math.isnan(number) for number in numbers)
    assert Joint([found]).verdict == NO_VERDICT


def test_what_is_counted_decides_without_a_test():
    counted = replace(contrast(2, 2, 2.1), counted=True)
    for part, verdict in ((above(counted), SUPPORTED), (under(counted), CONTRADICTED), (above(counted, 2.05), INCONCLUSIVE)):
        found = outcome(part)
        assert (found.verdict, found.low, found.high) == (verdict, 2.0, 2.1)
        assert math.isnan(Joint([found]).p_inside)


@pytest.mark.parametrize(
    ("part", "of_the_first", "of_the_second"),
    [
        (above, NO_VERDICT, SUPPORTED),  # says that the second is lower
        (under, SUPPORTED, NO_VERDICT),
        (partial(above, than=-1.0), NO_VERDICT, SUPPORTED),  # that it is at most as high
        (partial(under, than=1.0), SUPPORTED, NO_VERDICT),
        (partial(matching, margin=1.0), NO_VERDICT, NO_VERDICT),
        (partial(not_worse, margin=1.0), CONTRADICTED, SUPPORTED),
    ],
)
def test_a_curve_at_chance_is_judged_by_claims_about_its_collapse_alone(part, of_the_first, of_the_second):
    for name, pull, verdict in (("a", -1, of_the_first), ("b", 1, of_the_second)):
        found = outcome(part(replace(contrast(*(pull * x for x in (20, 21, 22))), at_chance=(name,), pull=pull)))
        assert (found.verdict, found.reason) == (verdict, f"at chance: {name}" if verdict == NO_VERDICT else "")
        never_trained = outcome(part(replace(found.part.contrast, pull=0)))
        assert never_trained.verdict == NO_VERDICT
    both = outcome(part(replace(contrast(1, 2, 3), at_chance=("a", "b"))))
    assert (both.verdict, both.reason) == (NO_VERDICT, "at chance: a and b")


def test_tickets_at_chance_are_never_not_worse():
    """Dense networks half a point above chance: within the margin, and yet no ticket that learned anything."""
    learned = contrast(-0.4, -0.5, -0.6)
    collapsed = replace(learned, at_chance=("a",), pull=-1)
    assert outcome(not_worse(learned, 1.0)).verdict == SUPPORTED
    found = outcome(not_worse(collapsed, 1.0))
    assert (found.verdict, found.p_inside) == (INCONCLUSIVE, 1.0)


@pytest.mark.parametrize(
    ("column", "chance", "collapsed"),
    [
        ("accuracy", {2, 3}, True),
        ("best_accuracy", {1, 2, 3}, True),
        ("accuracy", {0, 1, 2, 3}, False),  # its dense network is there too: it was never trained
        ("accuracy", {3}, False),
        ("mace", {2, 3}, False),  # a net at chance may have a low one
    ],
)
def test_a_curve_has_collapsed_if_pruning_alone_brought_its_accuracy_to_chance(column, chance, collapsed):
    good = grid_of([[0.9] * 4], [1.0, 0.5, 0.25, 0.1])
    bad = replace(good, chance=frozenset(chance), column=column)
    assert bad.collapsed([2, 3]) == collapsed
    assert (area(good, bad, start=2).pull, area(bad, good, start=2).pull) == (collapsed, -collapsed)
    assert area(bad, bad, start=2).pull == 0


def test_a_contradiction_counts_though_another_part_has_no_verdict():
    no, missing, yes = (
        outcome(above(contrast(-2, -2.1, -1.9))),
        outcome(above(contrast(2))),
        outcome(above(contrast(2, 2.1, 1.9))),
    )
    assert Joint([missing, no]).verdict == CONTRADICTED
    assert Joint([missing, yes]).verdict == NO_VERDICT
    assert Joint([missing, yes]).deciding is missing


def test_all_parts_must_hold_and_any_contradicts():
    yes, no, unknown = (outcome(above(contrast(*v))) for v in ((2, 2.1, 1.9), (-2, -2.1, -1.9), (-2, 3, 0)))
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


def test_the_area_is_the_mean_over_log_density():
    """Of .9 + .1 log d from d = 1 to d = e^-3 the mean is .9 - .15; trapezoids are exact for straight lines."""
    density = [1.0, math.exp(-0.5), math.exp(-2), math.exp(-3)]
    line = [0.9 + 0.1 * math.log(d) for d in density]
    found = area(grid_of([line, line], density), grid_of([[0.0] * 4] * 2, density))
    assert list(found.values.values()) == pytest.approx([75.0, 75.0])


@given(st.lists(st.tuples(st.floats(0.01, 0.9), st.floats(0, 1)), min_size=2, max_size=10))
def test_the_area_is_numpys(points):
    density = np.cumprod([share for share, _ in points])
    values = np.array([value for _, value in points])
    x = np.log(density)
    expected = 100 * np.trapezoid(values, x) / (x[-1] - x[0])
    found = area(grid_of([values], density), grid_of([np.zeros(len(values))], density))
    assert found.values[0] == pytest.approx(expected, abs=1e-9)


def test_levels_are_named_by_their_density():
    rows = Rows(pd.concat([rows_of(SNR), rows_of(MU)]))
    a, b = (rows.grid(curve, "accuracy") for curve in (SNR, MU))
    assert near(a, b, density=0.1).words.endswith("at 10.7% left")
    assert near(a, b, density=0.012).words.endswith("at 1.15% left")
    assert len(every(a, b, start=2, stop=5)) == 4
    assert first_level(a, b, 0.5) == 2  # 41%
    assert first_level(a, b, 0.55) == 1  # 64% is within a factor of 1.2
    assert below(a, b, density=0.02).words.endswith("mean below 2% left (at 1.8%, 1.15%)")
    with pytest.raises(Missing, match=r"a level near 0.5% left \(within a factor of 1.2\)"):
        near(a, b, density=0.005)


def test_between_two_pruned_levels_a_contrast_is_interpolated_in_log_density():
    """Of 3 points at 64% and 1 at 39%, the value at the geometric mean of both is 2."""
    a, b = grid_of([[9.0, 0.03, 0.01]], [1.0, 0.64, 0.39]), grid_of([[0.0, 0.0, 0.0]], [1.0, 0.64, 0.39])
    found = near(a, b, density=math.sqrt(0.64 * 0.39))
    assert found.values[0] == pytest.approx(2.0)
    assert found.words.endswith("left, interpolated between 64% and 39%")
    sparse, wide = ((grid_of([[9.0, 0.03, 0.01]], density), 0.5) for density in ([1.0, 0.33, 0.1], [1.0, 0.8, 0.35]))
    for grid, density in (sparse, wide):  # a dense network is no pruned level; 80% and 35% are too far away
        with pytest.raises(Missing, match="a level near 50% left"):
            near(grid, grid, density=density)


def test_the_mean_below_a_density_is_that_of_its_levels():
    density = [1.0, 0.5, 0.019, 0.01]
    found = below(grid_of([[0.9, 0.8, 0.5, 0.3]], density), grid_of([[0.0] * 4], density), density=0.02)
    assert found.values[0] == pytest.approx(40.0)


def test_depth_correlation_is_minus_one_where_density_falls_with_depth():
    densities = grid_of([['{"a": 0.3, "b": 0.2, "c": 0.1}'], ['{"a": 0.1, "b": 0.3, "c": 0.2}']], [0.012])
    assert list(depth_correlation(densities, density=0.012).values.values()) == pytest.approx([-1.0, 0.5])
    with pytest.raises(Missing, match="three or more prunable layers"):
        depth_correlation(grid_of([['{"a": 0.3, "b": 0.2}']], [0.012]), density=0.012)
