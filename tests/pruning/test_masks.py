"""Masks: exact counts under ties, nested levels, shuffles that keep what they promise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola.errors import TombolaError
from tombola.posterior.layout import Layout, Segment
from tombola.pruning.masks import (
    SHUFFLES,
    drop_cheapest,
    drop_lowest,
    emptied,
    erk_counts,
    keep_in_groups,
    prune,
    prune_count,
)

tied = st.sampled_from([0.0, 1.0, 2.0, float("inf"), -float("inf")])
fractions = st.floats(0, 1, exclude_min=True, exclude_max=True)


def layout_of(*parts):
    """A layout of flat tensors (size, prunable), named a, b, c, ..."""
    segments, start = [], 0
    for i, (size, prunable) in enumerate(parts):
        role = {"random": True, "decayed": True, "prunable": prunable, "fan_in": 1, "why": ""}
        segments.append(Segment(name="abcdefgh"[i], shape=(size,), start=start, **role))
        start += size
    return Layout(tuple(segments))


@st.composite
def layouts(draw):
    parts = draw(st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=5))
    return layout_of((draw(st.integers(1, 30)), True), *parts)


@st.composite
def layouts_and_masks(draw):
    layout = draw(layouts())
    kept = torch.tensor(draw(st.lists(st.booleans(), min_size=layout.numel, max_size=layout.numel)))
    return layout, kept | ~layout.prunable


def counts(layout, mask):
    return {s.name: int(mask[s.slice].sum()) for s in layout.segments}


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def test_of_3_1_2_a_third_dropped_keeps_3_and_2():
    scores = torch.tensor([3.0, 1.0, 2.0])
    assert prune(layout_of((3, True)), torch.ones(3, dtype=torch.bool), scores, 1 / 3, "global").tolist() == [
        True,
        False,
        True,
    ]


@given(scores=st.lists(tied, min_size=1, max_size=60), data=st.data())
def test_exactly_the_asked_number_is_dropped_and_lower_indices_survive_ties(scores, data):
    count = data.draw(st.integers(0, len(scores)))
    keep = drop_lowest(torch.tensor(scores, dtype=torch.float64), count)
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    assert keep.nonzero().flatten().tolist() == sorted(order[: len(scores) - count])


def test_all_equal_scores_keep_the_first():
    assert drop_lowest(torch.zeros(100), 20).tolist() == [True] * 80 + [False] * 20


@pytest.mark.parametrize(
    ("remaining", "fraction", "count"), [(100, 0.2, 20), (3, 1 / 3, 1), (10, 0.25, 2), (1, 0.2, 0), (0, 0.5, 0)]
)
def test_prune_count(remaining, fraction, count):
    assert prune_count(remaining, fraction) == count


@pytest.mark.parametrize("scope", ["global", "layerwise"])
@given(layout=layouts(), fraction=fractions, data=st.data())
def test_levels_are_nested_exact_and_leave_the_rest_alone(scope, layout, fraction, data):
    mask = torch.ones(layout.numel, dtype=torch.bool)
    for _ in range(4):
        scores = torch.tensor(data.draw(st.lists(tied, min_size=layout.numel, max_size=layout.numel)), dtype=torch.float64)
        before, given_mask = mask, mask.clone()
        mask = prune(layout, before, scores, fraction, scope)
        assert torch.equal(before, given_mask)  # the caller's mask is not written to
        assert not (mask & ~before).any()
        assert mask[~layout.prunable].all()
        if scope == "global":
            left = int(before[layout.prunable].sum())
            assert int(mask[layout.prunable].sum()) == left - round(left * fraction)
        else:
            for segment in layout.prunable_segments():
                left = int(before[segment.slice].sum())
                assert int(mask[segment.slice].sum()) == left - round(left * fraction)


def test_global_pruning_compares_layers_and_layerwise_does_not():
    layout = layout_of((4, True), (2, False), (4, True))
    scores = torch.tensor([1, 2, 3, 4, 0, 0, 5, 6, 7, 8], dtype=torch.float64)
    dense = torch.ones(10, dtype=torch.bool)
    assert counts(layout, prune(layout, dense, scores, 0.5, "global")) == {"a": 0, "b": 2, "c": 4}
    assert counts(layout, prune(layout, dense, scores, 0.5, "layerwise")) == {"a": 2, "b": 2, "c": 2}


def test_twenty_levels_of_a_fifth_leave_about_one_percent():
    layout, mask = layout_of((100_000, True)), torch.ones(100_000, dtype=torch.bool)
    for _ in range(20):
        mask = prune(layout, mask, torch.zeros(100_000), 0.2, "global")
    assert abs(int(mask.sum()) - 100_000 * 0.8**20) <= 2.5  # half a weight a level, shrinking by 0.8
    assert mask[: int(mask.sum())].all()


def test_nothing_prunable_is_an_error():
    with pytest.raises(TombolaError, match="nothing is prunable"):
        prune(layout_of((3, False)), torch.ones(3, dtype=torch.bool), torch.zeros(3), 0.5, "global")


def test_emptied_names_what_has_nothing_left():
    layout = layout_of((2, True), (2, True), (2, False))
    assert emptied(layout, torch.tensor([1, 0, 0, 0, 0, 0], dtype=torch.bool)) == ["b"]


@pytest.mark.parametrize("how", SHUFFLES)
@given(both=layouts_and_masks(), seed=st.integers(0, 2**31))
def test_every_shuffle_keeps_the_total_and_what_is_excluded(how, both, seed):
    layout, mask = both
    result = SHUFFLES[how](layout, mask, stream(seed))
    assert result.dtype == torch.bool
    assert int(result.sum()) == int(mask.sum())
    assert result[~layout.prunable].all()


@given(both=layouts_and_masks(), seed=st.integers(0, 2**31))
def test_layerwise_shuffle_keeps_each_layers_count(both, seed):
    layout, mask = both
    assert counts(layout, SHUFFLES["layerwise"](layout, mask, stream(seed))) == counts(layout, mask)


@given(both=layouts_and_masks(), seed=st.integers(0, 2**31))
def test_even_shuffle_gives_every_layer_the_global_density_to_one_weight(both, seed):
    layout, mask = both
    density = int(mask[layout.prunable].sum()) / int(layout.prunable.sum())
    result = SHUFFLES["even"](layout, mask, stream(seed))
    for segment in layout.prunable_segments():
        assert abs(int(result[segment.slice].sum()) - density * segment.numel) < 1


def test_global_shuffle_moves_weights_between_layers():
    layout = layout_of((500, True), (500, True))
    mask = torch.arange(1000) < 500
    kept = counts(layout, SHUFFLES["global"](layout, mask, stream()))
    assert 180 < kept["a"] < 320  # hypergeometric: 250, standard deviation 7.9
    assert kept["a"] + kept["b"] == 500


@pytest.mark.parametrize("how", SHUFFLES)
def test_a_shuffle_depends_on_its_generator_alone(how):
    layout, mask = layout_of((300, True), (300, True)), torch.arange(600) % 3 == 0
    torch.manual_seed(1)
    first = SHUFFLES[how](layout, mask, stream(5))
    torch.manual_seed(2)
    assert torch.equal(first, SHUFFLES[how](layout, mask, stream(5)))
    assert not torch.equal(first, SHUFFLES[how](layout, mask, stream(6)))
    assert torch.equal(mask, torch.arange(600) % 3 == 0)


@pytest.mark.parametrize("how", ["layerwise", "global"])
def test_the_permutation_does_not_depend_on_the_mask(how):
    """The shuffle of a union is the union of the shuffles."""
    layout, even = layout_of((60, True), (40, True)), torch.arange(100) % 2 == 0
    third = torch.arange(100) % 3 == 0
    shuffle = SHUFFLES[how]
    assert torch.equal(
        shuffle(layout, even | third, stream()), shuffle(layout, even, stream()) | shuffle(layout, third, stream())
    )


@pytest.mark.parametrize("how", ["global", "layerwise", *(f"shuffle {name}" for name in SHUFFLES)])
def test_masks_do_not_depend_on_how_weights_lie_in_memory(how, monkeypatch):
    """Scores full of ties, on a layout whose convolution is channels-last, against the same one in row-major order."""
    roles = {"random": True, "decayed": True, "prunable": True, "fan_in": 1, "why": ""}
    shapes = {"a.weight": (4, 3, 2, 2), "b.weight": (3, 5), "c.weight": (2, 4, 3, 3)}
    starts = dict(zip(shapes, (0, 48, 63), strict=True))
    layout = Layout(tuple(Segment(name=n, shape=s, start=starts[n], **roles) for n, s in shapes.items()))

    def made():
        scores = layout.of_row_major(torch.randint(3, (layout.numel,), generator=stream()).double())
        mask = layout.of_row_major(torch.rand(layout.numel, generator=stream(1)) < 0.6)
        if how.startswith("shuffle"):
            return layout.row_major(SHUFFLES[how.split()[1]](layout, mask, stream(2)))
        return layout.row_major(prune(layout, mask, scores, 0.3, how))

    found = made()
    monkeypatch.setattr(Segment, "channels_last", False)
    assert torch.equal(found, made())


@st.composite
def priced_layouts(draw):
    """A layout, and the cost of each weight: one of each prunable segment."""
    layout = draw(layouts())
    costs = torch.zeros(layout.numel, dtype=torch.float64)
    for segment in layout.prunable_segments():
        costs[segment.slice] = draw(st.sampled_from([1.0, 4.0, 64.0, 0.3]))
    return layout, costs


@pytest.mark.thinned(2)
@pytest.mark.parametrize("scope", ["global", "layerwise"])
@given(both=priced_layouts(), fraction=fractions, data=st.data())
def test_a_level_cuts_its_share_of_the_costs_to_half_a_weight(scope, both, fraction, data):
    layout, costs = both
    mask = torch.ones(layout.numel, dtype=torch.bool)
    groups = [s.slice for s in layout.prunable_segments()] if scope == "layerwise" else [slice(None)]
    for _ in range(4):
        scores = torch.tensor(data.draw(st.lists(tied, min_size=layout.numel, max_size=layout.numel)), dtype=torch.float64)
        before = mask
        mask = prune(layout, before, scores, fraction, scope, costs)
        assert not (mask & ~before).any()
        assert mask[~layout.prunable].all()
        for part in groups:
            left, was = costs[part][mask[part]].sum(), costs[part][before[part]].sum()
            assert abs(float(left - (1 - fraction) * was)) <= 0.5 * float(costs[part].max()) + 1e-9
            dropped, kept = before[part] & ~mask[part] & layout.prunable[part], mask[part] & layout.prunable[part]
            if dropped.any() and kept.any():
                assert scores[part][dropped].max() <= scores[part][kept].min()


@given(scores=st.lists(tied, min_size=1, max_size=40), data=st.data())
def test_of_equal_costs_as_many_are_dropped_as_by_counts(scores, data):
    values, count = torch.tensor(scores, dtype=torch.float64), data.draw(st.integers(0, len(scores)))
    by_cost = drop_cheapest(values, torch.full_like(values, 7.0), 7.0 * count)
    assert torch.equal(by_cost, drop_lowest(values, count))


def layout_of_shapes(*shapes):
    """A layout of prunable weights, in memory as those of linear layers and convolutions are."""
    segments, start = [], 0
    for i, shape in enumerate(shapes):
        role = {"random": True, "decayed": True, "prunable": True, "fan_in": 1, "why": ""}
        segments.append(Segment(name=f"{i}.weight", shape=shape, start=start, **role))
        start += segments[-1].numel
    return Layout(tuple(segments))


@pytest.mark.thinned(3)
@pytest.mark.parametrize(("kept", "size"), [(2, 4), (1, 4), (1, 2), (3, 8)])
@pytest.mark.parametrize("shape", [(3, 8), (2, 16, 3, 3), (2, 8, 5)])
@given(seed=st.integers(0, 2**31), density=st.sampled_from([0.3, 1.0]), ties=st.booleans())
def test_groups_keep_their_best_as_a_loop_over_them_does(kept, size, shape, seed, density, ties):
    layout, generator = layout_of_shapes(shape, (4, 3)), stream(seed)
    scores = torch.rand(layout.numel, generator=generator, dtype=torch.float64)
    scores = scores.mul(3).round() - 1 if ties else scores
    scores[torch.rand(layout.numel, generator=generator) < 0.1] = -torch.inf
    mask = torch.rand(layout.numel, generator=generator) < density
    found = keep_in_groups(layout, mask, scores, kept, size)
    grouped, other = layout.segments
    assert torch.equal(found[other.slice], mask[other.slice])  # three inputs make no group
    value, alive, result = (grouped.view(flat).movedim(1, -1).reshape(-1, size) for flat in (scores, mask, found))
    for row in range(len(value)):
        best = sorted((i for i in range(size) if alive[row, i]), key=lambda i: (-float(value[row, i]), i))
        assert result[row].nonzero().flatten().tolist() == sorted(best[:kept])


def test_a_pattern_that_fits_no_layer_is_an_error():
    layout = layout_of_shapes((4, 3), (6,))
    with pytest.raises(TombolaError, match="groups of 4 fits no prunable weight"):
        keep_in_groups(layout, torch.ones(18, dtype=torch.bool), torch.zeros(18), 2, 4)


def test_erk_counts_are_the_rule_of_rigl_by_hand():
    shapes, sizes = [(16, 3, 3, 3), (32, 16, 3, 3), (10, 32)], [432, 4608, 320]
    share = 500 / (25 + 54 + 42)
    found = erk_counts(shapes, sizes, 500)
    assert sum(found) == 500
    assert all(abs(count - share * sum(shape)) < 1 for count, shape in zip(found, shapes, strict=True))
    dense_first = erk_counts(shapes, sizes, 3000)  # 432 and 320 are less than their shares
    assert dense_first == [432, 3000 - 432 - 320, 320]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6), st.floats(0, 1))
def test_erk_counts_are_exact_within_the_layers_and_grow_with_their_sum(shapes, share):
    most = [a * b for a, b in shapes]
    kept = round(share * sum(most))
    found = erk_counts(shapes, most, kept)
    assert sum(found) == kept
    assert all(0 <= count <= size for count, size in zip(found, most, strict=True))
    fewer = erk_counts(shapes, found, kept // 2)  # of layers that are sparse already
    assert sum(fewer) == kept // 2


def test_scope_erk_prunes_the_lowest_of_each_layer():
    layout = layout_of((6, True), (3, False), (30, True))
    scores = torch.arange(39).double()
    mask = prune(layout, torch.ones(39, dtype=torch.bool), scores, 0.75, "erk")
    first, second = erk_counts([(6,), (30,)], [6, 30], 9)
    assert mask.tolist() == [False] * (6 - first) + [True] * (first + 3) + [False] * (30 - second) + [True] * second
