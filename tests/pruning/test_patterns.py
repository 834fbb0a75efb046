"""Patterns N:M: every score keeps its best of each group, level by level."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tombola import PruneSettings
from tombola.posterior.layout import Layout
from tombola.posterior.state import State, initial_state
from tombola.pruning.iterate import prune_ticket, scores_of
from tombola.pruning.scores import SCORES
from tombola.pruning.ticket import Ticket, ticket_of
from tombola.settings import PosteriorSettings

MODULE = nn.Sequential(nn.Conv2d(4, 3, 3), nn.Linear(8, 6), nn.Linear(6, 2))
LAYOUT = Layout.of(MODULE, classifier=True)


def trained(state: State, mask: torch.Tensor, seed: int) -> Ticket:
    drawn = torch.randn(LAYOUT.numel, generator=torch.Generator().manual_seed(seed))
    tensors = state.tensors() | {"posterior.gaussian.mean": drawn}
    return Ticket(mask, state.masked(mask), State.of_tensors(LAYOUT, mask, tensors).masked(mask))


@pytest.mark.parametrize("score", SCORES)
@given(seed=st.integers(0, 2**31), pattern=st.sampled_from(["2:4", "1:4", "1:2", "3:4"]))
@settings(max_examples=3)
def test_each_level_keeps_the_best_of_each_group_by_every_score(score, seed, pattern):
    start = initial_state(MODULE, LAYOUT, PosteriorSettings(std_jitter=0.5), seed)
    rule = PruneSettings(score=score, pattern=pattern)
    kept, size = rule.group
    ticket = trained(start, ticket_of(start).mask, seed)
    for level in range(rule.levels):
        seeds = [torch.Generator().manual_seed(level) for _ in range(2)]
        pruned = prune_ticket(ticket, start, rule, seeds[0], level=level)
        q = ticket.posterior
        values = scores_of(q, score, q.std, seeds[1])
        for segment in LAYOUT.prunable_segments():
            before, after, own = (segment.view(f).movedim(1, -1) for f in (ticket.mask, pruned.mask, values))
            if before.shape[-1] % size:
                assert bool(after.all())
                continue
            before, after, own = (part.reshape(-1, size) for part in (before, after, own))
            assert after.sum(1).eq(size - level - 1).all()
            assert not bool((after & ~before).any())
            best = own.masked_fill(~after, torch.inf).amin(1)
            assert bool((best >= own.masked_fill(after | ~before, -torch.inf).amax(1)).all())
        assert not bool(pruned.rewind.posterior.mean[~pruned.mask].any())
        ticket = trained(start, pruned.mask, seed + level + 1)
    assert ticket.mask[LAYOUT.prunable].sum() == sum(
        s.numel * kept // size if s.shape[1] % size == 0 else s.numel for s in LAYOUT.prunable_segments()
    )
