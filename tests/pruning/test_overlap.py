"""Masks in common: by sets, against simulated chance; rank correlation against scipy; barriers by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from tombola.metrics import barrier, spearman
from tombola.pruning.overlap import expected_intersection, jaccard, mask_distance, overlap_by_chance

masks = st.integers(0, 30).flatmap(lambda n: st.tuples(*[st.lists(st.booleans(), min_size=n, max_size=n)] * 2))


@st.composite
def layer_counts(draw):
    """(sizes, kept by a, kept by b), layer by layer."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    return sizes, *([draw(st.integers(0, n)) for n in sizes] for _ in range(2))


@given(masks)
def test_jaccard_is_that_of_the_sets(pair):
    a, b = ({i for i, kept in enumerate(mask) if kept} for mask in pair)
    expected = len(a & b) / len(a | b) if a | b else 1.0
    assert jaccard(len(a & b), len(a), len(b)) == expected


@given(masks)
def test_mask_distance_is_the_share_of_differing_weights(pair):
    a, b = (torch.tensor(mask, dtype=torch.bool) for mask in pair)
    assert mask_distance(a, b) == pytest.approx(sum(x != y for x, y in zip(*pair, strict=True)) / max(1, len(pair[0])))
    assert mask_distance(a, a) == 0


def draw_mask(size, kept, stream):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.randperm(size, generator=stream)[:kept]] = True
    return mask


def test_chance_is_what_independent_random_masks_show():
    """Simulated: the mean intersection within four standard errors, the mean Jaccard index within its stated bias."""
    sizes, kept_a, kept_b = [400, 900, 50], [40, 500, 50], [100, 300, 2]
    stream, common, indices = torch.Generator().manual_seed(0), [], []
    for _ in range(400):
        shared = 0
        for n, a, b in zip(sizes, kept_a, kept_b, strict=True):
            shared += int((draw_mask(n, a, stream) & draw_mask(n, b, stream)).sum())
        common.append(shared)
        indices.append(jaccard(shared, sum(kept_a), sum(kept_b)))
    drawn, seen = torch.tensor(common, dtype=torch.float64), torch.tensor(indices, dtype=torch.float64)
    expected = expected_intersection(sizes, kept_a, kept_b)
    assert drawn.mean().item() == pytest.approx(expected, abs=4 * drawn.std().item() / 20)
    union = sum(kept_a) + sum(kept_b) - expected
    bias = drawn.var().item() / union**2
    chance = overlap_by_chance(sizes, kept_a, kept_b)
    assert seen.mean().item() == pytest.approx(chance, abs=4 * seen.std().item() / 20 + 2 * bias)


@given(layer_counts())
def test_chance_lies_between_none_and_the_most_that_the_counts_allow(counts):
    sizes, a, b = counts
    chance = overlap_by_chance(sizes, a, b)
    assert 0 <= chance <= jaccard(sum(map(min, a, b)), sum(a), sum(b)) + 1e-12
    assert overlap_by_chance(sizes, b, a) == pytest.approx(chance)
    assert overlap_by_chance(sizes, sizes, sizes) == pytest.approx(1)


def test_unequal_layer_densities_alone_make_masks_alike():
    """Two layers of 100: all of one and none of the other is the same mask; half of each is an index of 1/3."""
    assert overlap_by_chance([100, 100], [100, 0], [100, 0]) == 1
    assert overlap_by_chance([100, 100], [50, 50], [50, 50]) == pytest.approx(1 / 3)


numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3), st.just(math.inf))


@given(st.integers(3, 20).flatmap(lambda n: st.lists(st.lists(numbers, min_size=n, max_size=n), min_size=2, max_size=4)))
def test_spearman_is_scipys(rows):
    values = torch.tensor(rows, dtype=torch.float64)
    found = spearman(values)
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            if len(set(a)) == 1 or len(set(b)) == 1:
                assert math.isnan(found[i, j])
            else:
                assert found[i, j].item() == pytest.approx(float(spearmanr(a, b).statistic), abs=1e-12)


def test_spearman_of_two_columns_is_nan_and_nan_is_refused():
    assert bool(spearman(torch.tensor([[1.0, 2.0], [2.0, 1.0]])).isnan().all())
    with pytest.raises(ValueError, match="NaN"):
        spearman(torch.tensor([[1.0, math.nan, 2.0]]))
    with pytest.raises(ValueError, match="two dimensions"):
        spearman(torch.zeros(3))


def test_the_barrier_of_a_quadratic_is_a_quarter_of_its_curvature():
    """L(w) = -c w^2 from w = 0 to 1 rises above its chord by c a (1 - a), at most c / 4; a bowl has no barrier."""
    alphas = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert barrier(alphas, [-8 * a**2 for a in alphas]) == pytest.approx(2)
    assert barrier(alphas, [8 * a**2 for a in alphas]) == 0
    assert barrier(alphas, [3 + a + (a == 0.25) for a in alphas]) == pytest.approx(1)


@pytest.mark.parametrize(("alphas", "values"), [([0.0, 1.0], [1.0]), ([0.0, 0.5], [1.0, 1.0]), ([0.0], [1.0])])
def test_a_barrier_needs_both_ends(alphas, values):
    with pytest.raises(ValueError, match="alphas"):
        barrier(alphas, values)
