"""Scores over costs, and the masks that they give at a budget."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tombola.errors import TombolaError
from tombola.posterior.layout import Layout
from tombola.posterior.state import initial_state
from tombola.pruning.costs import per_cost, spread_costs
from tombola.pruning.iterate import prune_ticket
from tombola.pruning.scores import SCORES, WITHOUT_STD
from tombola.pruning.ticket import Ticket, ticket_of
from tombola.settings import PosteriorSettings, PruneSettings

COSTS = {"0.weight": 16.0, "2.weight": 1.0}


def trained_ticket(family="gaussian", seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
    state = initial_state(net, Layout.of(net, classifier=True), PosteriorSettings(std_jitter=0.5), seed)
    state = state.as_family(family)
    return Ticket(ticket_of(state).mask, state, state, {})


def left(ticket):
    """The share of the costs that the mask keeps."""
    total = {s.name: (COSTS[s.name] * int(ticket.mask[s.slice].sum()), COSTS[s.name] * s.numel) for s in prunable(ticket)}
    return sum(kept for kept, _ in total.values()) / sum(whole for _, whole in total.values())


def prunable(ticket):
    return ticket.layout.prunable_segments()


def chain(ticket, settings, costs=COSTS):
    found = [ticket]
    for level in range(settings.levels):
        last = found[-1]
        generator = torch.Generator().manual_seed(level)
        pruned = prune_ticket(last, ticket.rewind, settings, generator, costs=costs, level=level)
        found.append(Ticket(pruned.mask, pruned.rewind, ticket.trained.masked(pruned.mask), {}))
    return found


@given(
    scores=st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=2, max_size=20),
    cost=st.floats(0.01, 1e6),
    exponent=st.floats(0, 1),
)
def test_cost_never_helps_and_keeps_the_order_of_equal_costs(scores, cost, exponent):
    values = torch.tensor(sorted(scores), dtype=torch.float64)
    once = per_cost(values, torch.full_like(values, cost), exponent)
    assert (once.diff() >= 0).all()
    assert (per_cost(values, torch.full_like(values, 2 * cost), exponent) <= once).all()
    assert torch.equal(per_cost(values, torch.full_like(values, cost), 0.0), values)


def test_infinite_scores_stay_infinite():
    values = torch.tensor([torch.inf, -torch.inf, 0.0], dtype=torch.float64)
    assert torch.equal(per_cost(values, torch.full_like(values, 9.0), 0.5), values)


@pytest.mark.parametrize("scope", ["global", "layerwise"])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("budget", [{"budget": "flops"}, {"budget": "milliseconds", "costs": COSTS}])
def test_each_level_keeps_its_share_of_the_budget_with_every_score(score, scope, budget):
    family = "point" if score in WITHOUT_STD else "gaussian"
    tickets = chain(trained_ticket(family), PruneSettings(score=score, fraction=0.4, levels=4, scope=scope, **budget))
    whole = sum(COSTS[s.name] * s.numel for s in prunable(tickets[0]))
    most = sum(COSTS.values()) if scope == "layerwise" else max(COSTS.values())
    for before, after in pairwise(tickets):
        assert not (after.mask & ~before.mask).any()
        assert not after.rewind.posterior.mean[~after.mask].any()
        assert abs(left(after) - 0.6 * left(before)) * whole <= 0.5 * most + 1e-9


def test_with_costs_of_one_a_budget_is_the_number_of_weights():
    ticket, ones = trained_ticket(), dict.fromkeys(COSTS, 1.0)
    by_weights = chain(ticket, PruneSettings(fraction=0.3, levels=4), None)
    by_cost = chain(ticket, PruneSettings(fraction=0.3, levels=4, budget="flops"), ones)
    assert all(torch.equal(a.mask, b.mask) for a, b in zip(by_weights, by_cost, strict=True))


def test_an_exponent_moves_the_cut_from_cheap_weights_to_dear_ones():
    kept = {}
    for exponent in (0.0, 0.25, 0.5):
        last = chain(trained_ticket(), PruneSettings(budget="flops", cost_exponent=exponent, fraction=0.5, levels=2))[-1]
        kept[exponent] = last.layer_density()
    assert kept[0.0]["2.weight"] < kept[0.25]["2.weight"] < kept[0.5]["2.weight"]  # forty cheap weights
    assert kept[0.0]["0.weight"] >= kept[0.25]["0.weight"] >= kept[0.5]["0.weight"]


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("target", [0.3, 0.1, 0.049])
def test_the_last_level_is_on_the_target_and_no_level_cuts_more_than_the_fraction(target, fraction):
    settings = PruneSettings(target=target, fraction=fraction)
    tickets = chain(trained_ticket(), settings, None)
    weights = [int(t.mask[t.layout.prunable].sum()) for t in tickets]
    assert weights[-1] == round(target * weights[0])
    assert all(after >= (1 - fraction) * before - 1 for before, after in pairwise(weights))
    priced = chain(trained_ticket(), PruneSettings(target=target, fraction=fraction, budget="flops"))
    whole = sum(COSTS[s.name] * s.numel for s in prunable(priced[0]))
    assert abs(left(priced[-1]) - target) * whole <= 0.5 * max(COSTS.values())


@pytest.mark.parametrize("score", SCORES)
def test_a_pattern_prunes_one_more_of_each_group_at_every_level(score):
    family = "point" if score in WITHOUT_STD else "gaussian"
    settings = PruneSettings(score=score, pattern="1:4")
    assert settings.levels == 3
    tickets = chain(trained_ticket(family), settings, None)
    for level, ticket in enumerate(tickets):
        first, second = (s.view(ticket.mask) for s in prunable(ticket))
        assert first.all()  # six inputs are no groups of four
        assert (second.view(5, 2, 4).sum(2) == 4 - level).all()
        assert level == 0 or not (ticket.mask & ~tickets[level - 1].mask).any()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"levels": 20, "target": 0.05}, "levels is 20, but target 0.05 decides that there are 14; leave levels out"),
        ({"levels": 5, "pattern": "2:4"}, "levels is 5, but pattern '2:4' decides that there are 2; leave levels out"),
        ({"pattern": "4:4"}, "pattern is '4:4'; it must be KEPT:GROUP"),
        ({"pattern": "half"}, "pattern is 'half'; it must be KEPT:GROUP"),
        ({"pattern": "2:4", "target": 0.5}, "leave target, budget and fraction out"),
        ({"pattern": "2:4", "budget": "flops"}, "leave target, budget and fraction out"),
        ({"budget": "milliseconds"}, "budget is 'milliseconds', but there are no costs"),
        ({"budget": "milliseconds", "costs": {"a": -1.0}}, "costs has -1.0 for 'a'; give milliseconds a weight"),
        ({"target": 1.5}, "target is 1.5; it must be below 1"),
        ({"cost_exponent": 2.0}, "cost_exponent is 2.0; it must be at most 1"),
    ],
)
def test_settings_that_exclude_one_another_are_refused_in_a_sentence(given, sentence):
    with pytest.raises(TombolaError) as error:
        PruneSettings(**given)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("costs", "sentence"),
    [
        (COSTS | {"0.bias": 1.0}, "there is a cost for '0.bias', which is not prunable"),
        ({"0.weight": 1.0}, "the weights of '2.weight' have a cost of nothing"),
        ({"0.weight": 1.0, "2.weight": 0.0}, "the weights of '2.weight' have a cost of 0.0"),
    ],
)
def test_costs_of_other_parameters_are_refused(costs, sentence):
    with pytest.raises(TombolaError, match=sentence):
        spread_costs(trained_ticket().layout, costs)
    with pytest.raises(TombolaError, match="needs the costs of weights"):
        chain(trained_ticket(), PruneSettings(budget="flops"), None)


def test_levels_follow_from_the_target():
    assert PruneSettings(target=0.8**3).levels == 3
    assert PruneSettings(target=0.05, fraction=0.95).levels == 1
    assert PruneSettings().levels == 20
    assert PruneSettings(target=0.05).share_left(14) == pytest.approx(0.05)
    assert PruneSettings(pattern="2:4").share_left(2) == 0.5
