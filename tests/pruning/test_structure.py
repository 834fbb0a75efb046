"""Whole units: who belongs together, counts, ties and shuffles, on every net that ships."""

import warnings
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from support.unit_nets import NETS, WITH_HEADS, layout, made, random_alive, start_of, trained, units
from tombola import PruneSettings
from tombola.errors import TombolaError
from tombola.posterior.layout import Layout
from tombola.pruning.iterate import prune_ticket, shuffled
from tombola.pruning.masks import SHUFFLES
from tombola.pruning.scores import SCORES
from tombola.pruning.structure import prune_units, shuffle_units
from tombola.pruning.units import units_of

few = settings(max_examples=3)
seeds = st.integers(0, 2**31)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def counted(name, mask):
    return int(mask[layout(name).prunable].sum())


@lru_cache
def largest_unit(name):
    """Weights of the largest unit of a dense net."""
    dense = torch.ones(layout(name).numel, dtype=torch.bool)
    others = ~torch.eye(len(units(name)), dtype=torch.bool)
    return counted(name, dense) - min(counted(name, units(name).masked(dense, own)) for own in others)


def widths(name, structure="units"):
    return units(name, structure).layer.bincount().tolist()


def test_the_units_of_each_net_are_its_neurons_channels_and_heads():
    assert widths("mlp") == [9, 7, 5]
    assert widths("conv") == [5, 6, 4]
    assert widths("resnet") == [4, 4, 8, 8, 16, 16]  # stem and shortcuts of a segment are one layer, first convolutions own
    assert widths("vgg11") == [2, 4, 8, 8, 16, 16, 16, 16]
    assert widths("fast") == [3, 3, 12, 12, 12, 12]  # the frozen first layer is none
    assert widths("vit", "channels") == [6, 6]  # the residual stream goes through layer norms
    assert widths("text", "channels") == [7, 7]
    assert [widths(name, "heads") for name in WITH_HEADS] == [[3, 3], [3, 3]]
    assert [len(widths(name)) for name in WITH_HEADS] == [4, 4]


def test_with_a_channel_of_a_shortcut_die_all_that_add_to_it_and_all_that_reads_it():
    """The first channel of the first segment of a residual net, by hand."""
    found, own = units("resnet"), layout("resnet")
    alive = torch.ones(len(found), dtype=torch.bool)
    alive[0] = False
    dead = own.views(~found.masked(torch.ones(own.numel, dtype=torch.bool), alive))
    by_hand = {name: torch.zeros_like(view) for name, view in dead.items()}
    for name in ("stem.conv", "stem.norm", "segment1.0.conv2", "segment1.0.norm2"):
        by_hand[f"{name}.weight"][0] = True
    for name in ("stem.norm", "segment1.0.norm2"):
        by_hand[f"{name}.bias"][0] = True
    for name in ("segment1.0.conv1", "segment2.0.conv1", "segment2.0.shortcut.conv"):
        by_hand[f"{name}.weight"][:, 0] = True
    assert all(torch.equal(dead[name], by_hand[name]) for name in dead)


def test_a_head_is_its_queries_keys_values_and_their_columns_of_the_output():
    found, own = units("vit", "heads"), layout("vit")
    alive = torch.ones(len(found), dtype=torch.bool)
    alive[1] = False  # of three heads of four features, in the first block
    dead = own.views(~found.masked(torch.ones(own.numel, dtype=torch.bool), alive))
    rows = torch.arange(3 * 3 * 4).view(3, 3, 4)[:, 1].flatten()
    assert dead["blocks.0.attention.qkv.weight"].all(1).nonzero().flatten().tolist() == rows.tolist()
    assert dead["blocks.0.attention.out.weight"].all(0).nonzero().flatten().tolist() == [4, 5, 6, 7]
    assert sum(int(view.sum()) for view in dead.values()) == 12 * 8 + 4 * 8


@pytest.mark.thinned(2)
@pytest.mark.parametrize("scope", ["global", "layerwise"])
@pytest.mark.parametrize("name", NETS)
@given(seed=seeds, share=st.floats(0, 1), ties=st.booleans())
@few
def test_units_go_in_order_until_the_weights_are_as_near_as_whole_units_allow(name, scope, seed, share, ties):
    """Against a loop that counts the surviving weights of each mask."""
    found, generator = units(name), stream(seed)
    worth = torch.rand(len(found), generator=generator, dtype=torch.float64)
    worth = worth.mul(3).round() if ties else worth
    before = found.masked(torch.ones(layout(name).numel, dtype=torch.bool), random_alive(found, generator))
    costs = torch.where(before, layout(name).prunable.double(), 0.0)
    alive, amount = found.alive(before), share * float(costs.sum())
    order = sorted((u for u in range(len(found)) if alive[u]), key=lambda u: (float(worth[u]), -u))
    if scope == "layerwise":
        own = {u: [v for v in order if found.layer[v] == found.layer[u]] for u in order}
        order.sort(key=lambda u: ((own[u].index(u) + 0.5) / len(own[u]), -u))
    best, kept = before, alive.clone()
    for unit in order:
        if int(kept[found.layer == found.layer[unit]].sum()) == 1:
            continue
        kept[unit] = False
        mask = found.masked(before, kept)
        gone, gone_before = (counted(name, before) - counted(name, m) for m in (mask, best))
        if abs(gone - amount) >= abs(gone_before - amount):
            break
        best = mask
    mask, gone = prune_units(found, before, worth, amount, costs, scope)
    assert torch.equal(mask, best)
    assert gone == counted(name, before) - counted(name, mask)
    assert torch.equal(found.masked(before, found.alive(mask)), mask)
    assert set(found.layer[found.alive(mask)].tolist()) == set(found.layer.tolist())


@pytest.mark.parametrize("name", NETS)
@given(seed=seeds)
@few
def test_a_units_worth_is_the_mean_square_of_the_scores_of_all_that_dies_with_it(name, seed):
    found, own, generator = units(name), layout(name), stream(seed)
    before = found.masked(torch.ones(own.numel, dtype=torch.bool), random_alive(found, generator))
    scores = torch.randn(own.numel, generator=generator, dtype=torch.float64)
    scores[torch.rand(own.numel, generator=generator) < 0.05] = -torch.inf
    alive, worth = found.alive(before), found.worth(scores, before & own.prunable)
    for unit in alive.nonzero().flatten().tolist():
        others = alive.clone()
        others[unit] = False
        values = scores[before & ~found.masked(before, others) & own.prunable]
        values = values[values > -torch.inf]
        expected = float((values.sign() * values**2).mean()) if len(values) else -torch.inf
        assert float(worth[unit]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_of_equal_units_the_later_go_first_and_infinite_scores_rank():
    found, own = units("mlp"), layout("mlp")
    dense, costs = torch.ones(own.numel, dtype=torch.bool), own.prunable.double()
    mask, _ = prune_units(found, dense, torch.zeros(21), 0.5 * float(costs.sum()), costs)
    left = found.alive(mask).tolist()
    assert left == sorted(left[:9], reverse=True) + [True] + [False] * 6 + [True] + [False] * 4
    scores = torch.zeros(own.numel)
    scores[torch.arange(own.numel)[own.prunable][0]] = torch.inf
    assert float(found.worth(scores, own.prunable)[0]) == torch.inf
    assert float(found.worth(torch.full((own.numel,), -torch.inf), own.prunable).max()) == -torch.inf


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", NETS)
@given(seed=seeds)
@few
def test_shuffles_move_whole_units_and_keep_counts(name, seed):
    found, own, generator = units(name), layout(name), stream(seed)
    mask = found.masked(torch.ones(own.numel, dtype=torch.bool), random_alive(found, generator))
    largest = largest_unit(name)
    for how in SHUFFLES:
        result = shuffle_units(found, own, mask, how, stream(seed))
        alive = found.alive(result)
        assert torch.equal(result, found.masked(torch.ones_like(mask), alive))
        assert torch.equal(result, shuffle_units(found, own, mask, how, stream(seed)))
        units_left = found.layer[alive].bincount()
        assert bool((units_left > 0).all())
        if how == "layerwise":
            assert torch.equal(units_left, found.layer[found.alive(mask)].bincount())
            assert [int(result[s.slice].sum()) for s in own.segments] == [int(mask[s.slice].sum()) for s in own.segments]
        elif bool((units_left > 1).all()):
            assert abs(counted(name, result) - counted(name, mask)) <= largest / 2
        if how == "even" and bool((units_left > 1).all()):
            share = units_left / found.layer.bincount()
            assert float(share.max() - share.min()) <= 2 / int(found.layer.bincount().min())


@pytest.mark.thinned(3)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_every_score_prunes_whole_units_to_the_target(score, scope):
    found, start = units("resnet"), start_of("resnet")
    rule, ticket = PruneSettings(score=score, structure="channels", scope=scope, target=0.3, fraction=0.5), trained("resnet")
    for level in range(rule.levels):
        pruned = prune_ticket(ticket, start, rule, stream(), level=level, units=found)
        assert torch.equal(pruned.mask, prune_ticket(ticket, start, rule, stream(), level=level, units=found).mask)
        assert torch.equal(pruned.mask, found.masked(torch.ones_like(pruned.mask), found.alive(pruned.mask)))
        assert not bool((pruned.mask & ~ticket.mask).any())
        ticket = trained("resnet", pruned.mask)
    assert abs(ticket.density - 0.3) < 0.02  # half of the largest unit is 0.018 of the weights
    assert not bool(ticket.rewind.posterior.mean[~ticket.mask].any())


def test_a_target_that_whole_units_cannot_reach_is_said_with_what_is_left():
    rule = PruneSettings(structure="heads", target=0.1, fraction=0.9)
    with pytest.warns(UserWarning, match=r"structure heads leaves 0\.\d+ of the weights, more than was asked for"):
        pruned = prune_ticket(trained("vit"), start_of("vit"), rule, stream(), units=units("vit", "heads"))
    assert units("vit", "heads").layer[units("vit", "heads").alive(pruned.mask)].bincount().tolist() == [1, 1]
    left = pruned.layer_density()
    assert left["blocks.0.attention.qkv.weight"] == pytest.approx(1 / 3)
    assert left["embed.weight"] == 1


def test_a_budget_of_flops_is_met_in_flops():
    """A weight of the first layer costs 100 times as much: with the exponent 1 its units go first."""
    own, found = layout("conv"), units("conv")
    costs = {s.name: 100.0 if s.name == "0.weight" else 1.0 for s in own.prunable_segments()}
    flat = sum(costs[s.name] * s.numel for s in own.prunable_segments())
    rule = PruneSettings(structure="channels", budget="flops", fraction=0.4, cost_exponent=1.0, score="mu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruned = prune_ticket(trained("conv"), start_of("conv"), rule, stream(), costs=costs, units=found)
    left = sum(costs[s.name] * int(pruned.mask[s.slice].sum()) for s in own.prunable_segments())
    assert abs(left / flat - 0.6) <= 0.5 * (100 * 27 + 9 * 6) / flat
    density = pruned.layer_density()
    assert density["0.weight"] < density["6.weight"]


def test_a_shuffled_ticket_has_units_under_the_dense_start():
    found, start = units("fast"), start_of("fast")
    rule = PruneSettings(structure="channels", fraction=0.6)
    pruned = prune_ticket(trained("fast"), start, rule, stream(), units=found)
    control = shuffled(pruned, start, "layerwise", stream(3), found)
    assert control.density == pruned.density
    assert torch.equal(control.rewind.posterior.mean[control.mask], start.posterior.mean[control.mask])
    assert not bool(control.rewind.posterior.mean[~control.mask].any())


class Gated(nn.Module):
    """Parts in which channels meet in other ways: a product of two, a depthwise convolution, a scale, concatenation."""

    def __init__(self):
        super().__init__()
        self.one, self.gate = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.wide, self.last = nn.Conv2d(12, 5, 1), nn.Linear(5, 2)

    def forward(self, x):
        y = self.one(x) * self.gate(x).sigmoid()
        y = torch.cat([self.depthwise(y) * self.scale, y], 1)
        return self.last(self.wide(y).relu().mean((2, 3)))


def test_gates_depthwise_convolutions_and_concatenations_keep_channels_apart():
    module = Gated()
    own = Layout.of(module)
    found = units_of(module, own, torch.randn(2, 3, 4, 4), "channels")
    assert found.layer.bincount().tolist() == [6, 5]
    alive = torch.ones(11, dtype=torch.bool)
    alive[2] = False
    dead = own.views(~found.masked(torch.ones(own.numel, dtype=torch.bool), alive))
    whole = {name: view.flatten(1).all(1).nonzero().flatten().tolist() for name, view in dead.items() if view.ndim > 1}
    assert [whole[f"{name}.weight"] for name in ("one", "gate", "depthwise")] == [[2], [2], [2]]
    assert whole["scale"] == [2]
    assert dead["wide.weight"].all(0).flatten().nonzero().flatten().tolist() == [2, 8]


class Tied(nn.Module):
    """One layer that is used twice: its inputs and outputs are the same neurons."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.first(x).relu()
        for _ in range(2):
            x = self.again(x).relu()
        return self.last(x)


def test_a_layer_that_is_used_twice_has_its_neurons_once():
    module = Tied()
    own = Layout.of(module)
    found = units_of(module, own, torch.randn(2, 4), "channels")
    assert len(found) == 6
    alive = torch.arange(6) != 1
    dead = own.views(~found.masked(torch.ones(own.numel, dtype=torch.bool), alive))
    assert dead["again.weight"].sum() == 11


class Hidden(nn.Module):
    """Channels that are written into a part of another tensor, where no operation shows them."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(8, 2)

    def forward(self, x):
        wide = torch.zeros(len(x), 8)
        wide[:, :6].add_(self.first(x))
        return self.last(wide)


@pytest.mark.parametrize(
    ("module", "inputs", "sentence"),
    [
        (Hidden(), torch.randn(2, 4), "Hidden reads channels in a way that is not seen"),
        (nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)), torch.randn(2, 4), "has no channels that can be"),
        (nn.Sequential(nn.Linear(4, 2)), torch.randn(2, 4), "Sequential has no channels that can be pruned"),
    ],
)
def test_networks_without_units_that_can_go_are_refused(module, inputs, sentence):
    with pytest.raises(TombolaError, match=sentence):
        units_of(module, Layout.of(module, classifier=True), inputs, "channels")


@pytest.mark.parametrize(
    ("given_settings", "sentence"),
    [
        ({"pattern": "2:4"}, "pattern '2:4' is of single weights, structure 'channels' of whole units"),
        ({"scope": "erk"}, "scope 'erk' is of single weights"),
    ],
)
def test_structure_with_rules_of_single_weights_is_refused(given_settings, sentence):
    with pytest.raises(TombolaError, match=sentence):
        PruneSettings(structure="channels", **given_settings)


def test_pruning_units_needs_the_units():
    with pytest.raises(TombolaError, match="structure channels needs the network's units"):
        prune_ticket(trained("mlp"), start_of("mlp"), PruneSettings(structure="channels"), stream())


def test_finding_units_leaves_the_module_as_it_was():
    module, inputs = made("conv")
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    units_of(module, layout("conv"), inputs, "channels")
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    module.eval()
