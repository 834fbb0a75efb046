"""The walk over a pruning chain, against its levels written down by hand."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tombola.errors import TombolaError
from tombola.pruning.chain import walk_chain
from tombola.settings import PruneSettings

REWINDS = ["init", "learning_rate", "epoch:3", "step:7"]


def told(settings):
    """The levels, where a node is the sentence that tells how it was made."""
    made = []

    def train(ticket, level, start, stop):
        made.append(f"train({ticket}, {start}, {stop})")
        return made[-1]

    def prune(trained, restart, level):
        made.append(f"prune {level}({trained}, {restart})")
        return made[-1]

    return walk_chain("dense", settings, train, prune), made


@given(levels=st.integers(0, 5), rewind=st.sampled_from(REWINDS))
def test_each_level_is_pruned_from_the_one_before_and_restarts_where_it_should(levels, rewind):
    walked, made = told(PruneSettings(levels=levels, rewind=rewind))
    at = rewind if ":" in rewind else ""
    dense = f"train(dense, , {at})" if at else "dense"
    ticket, trained, expected = "dense", "train(dense, , )", [dense] if at else []
    for level, found in enumerate(walked):
        if level:
            ticket = f"prune {level - 1}({trained}, {trained if rewind == 'learning_rate' else dense})"
            trained = f"train({ticket}, {at}, )"
            expected.append(ticket)
        expected.append(trained)
        assert (found.level, found.ticket, found.trained) == (level, ticket, trained)
        assert (found.dense, found.start) == (dense, at)
    assert made == expected
    assert found.level == levels


def test_a_level_is_made_when_it_is_asked_for():
    walked, made = told(PruneSettings(levels=5))
    assert made == []
    assert len(list(itertools.islice(walked, 2))) == 2
    assert len(made) == 3  # two trainings and the pruning between them


def test_another_rewind_is_an_error():
    with pytest.raises(TombolaError, match="rewind is 'later'"):
        next(told(PruneSettings(rewind="later"))[0])
