"""Held-out parts and subsets: exact sizes, classes in proportion, nothing twice."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola.data.choose import apportion, check_classes, draw, hold_out, subset
from tombola.errors import TombolaError

counts = st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any)


@given(counts, st.data())
def test_shares_add_up_and_stay_within_what_there_is(have, data):
    n = data.draw(st.integers(0, sum(have)))
    shares = apportion(have, n)
    assert sum(shares) == n
    assert all(0 <= share <= count for share, count in zip(shares, have, strict=True))
    if n >= sum(c > 0 for c in have):
        assert all(share > 0 for share, count in zip(shares, have, strict=True) if count)
    for share, count in zip(shares, have, strict=True):
        assert abs(share - n * count / sum(have)) < 2 + len(have) / 4  # near its proportion


def test_shares_that_can_be_checked_by_hand():
    assert apportion([50, 30, 20], 10) == [5, 3, 2]
    assert apportion([5000] * 10, 5000) == [500] * 10
    assert apportion([98, 1, 1], 10) == [8, 1, 1]  # the rare ones are kept
    assert apportion([3, 3], 3) == [2, 1]  # a tie goes to the lower class


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.data())
def test_a_part_held_out_and_the_rest_are_a_partition(labels, data):
    targets = torch.tensor(labels)
    rows = torch.arange(len(labels))[data.draw(st.integers(0, 1)) :]
    n = data.draw(st.integers(0, len(rows) - 1))
    stay, out = hold_out(targets, rows, n, "validation", "x")
    assert len(out) == n
    assert sorted([*stay.tolist(), *out.tolist()]) == rows.tolist()
    assert stay.tolist() == sorted(stay.tolist())


def test_draws_depend_on_their_names_alone():
    targets = torch.arange(100) % 5
    torch.manual_seed(1)
    first = draw(targets, 20, "subset", "a")
    torch.manual_seed(2)
    assert torch.equal(draw(targets, 20, "subset", "a"), first)
    assert not torch.equal(draw(targets, 20, "subset", "b"), first)
    assert targets[first].bincount().tolist() == [4] * 5


def test_a_regression_draws_without_classes():
    drawn = draw(torch.linspace(0, 1, 50).view(-1, 1), 20, "x")
    assert len(drawn.unique()) == 20


def test_sizes_that_do_not_fit_are_refused():
    targets, rows = torch.tensor([0, 0, 1, 1]), torch.arange(4)
    with pytest.raises(TombolaError, match=r"data 'x': validation is 4, of 4 training examples; leave some"):
        hold_out(targets, rows, 4, "validation", "x")
    with pytest.raises(TombolaError, match=r"data 'x': subset is 1; there are 4 examples in 2 classes .* give 2 to 4"):
        subset(targets, rows, 1, "subset", "x")
    with pytest.raises(TombolaError, match=r"subset is 5"):
        subset(targets, rows, 5, "subset", "x")
    assert subset(targets, rows, None, "subset", "x") is rows


def test_a_class_without_training_examples_is_named():
    with pytest.raises(TombolaError, match=r"data 'x': class 'cat' has no training examples"):
        check_classes(torch.tensor([0, 2]), ["ape", "cat", "dog"], "x")
    with pytest.raises(TombolaError, match=r"class 'cat' \(and 1 more\)"):
        check_classes(torch.tensor([0]), ["ape", "cat", "dog"], "x")
    check_classes(torch.tensor([2, 1, 0]), ["ape", "cat", "dog"], "x")
