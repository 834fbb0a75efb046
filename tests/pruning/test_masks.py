"""Masks: exact counts under ties, nested levels, shuffles that keep what they promise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola.errors import TombolaError
from tombola.posterior.layout import Layout, Segment
from tombola.pruning.masks import SHUFFLES, drop_lowest, emptied, prune, prune_count

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
