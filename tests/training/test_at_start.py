"""Scores of untrained networks, against closed forms and central differences in float64."""

import math

import pytest
import torch
from torch import nn

from tombola.errors import TombolaError
from tombola.models.conv import conv
from tombola.models.resnet import resnet
from tombola.posterior.layout import Layout
from tombola.posterior.likelihood import Categorical
from tombola.posterior.state import initial_state
from tombola.pruning.masks import prune
from tombola.settings import PosteriorSettings, PruneSettings
from tombola.training.at_start import SYNFLOW_ROUNDS, Untrained, start_scores


def net_of(module, *shape, parts=2, examples=6):
    layout = Layout.of(module)
    state = initial_state(module, layout, PosteriorSettings(), 0).as_family("point")
    draw = torch.Generator().manual_seed(1)
    inputs = torch.randn(parts, examples, *shape, generator=draw)
    targets = torch.randint(3, (parts, examples), generator=draw)
    return Untrained(module, state, Categorical(), list(zip(inputs, targets, strict=True)))


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def in_float64(net):
    """The mean loss as a function of the flat parameters, and these, in float64."""
    flat = net.state.posterior.mean.double()
    batches = [(x.double(), y) for x, y in net.batches]
    wide = Untrained(net.module, net.state, net.likelihood, batches)

    def loss(w):
        return torch.stack([wide.loss(w, batch) for batch in batches]).mean()

    return loss, flat


def test_snip_is_the_change_of_the_loss_by_a_removal_to_first_order():
    net = net_of(small(), 4)
    loss, flat = in_float64(net)
    found = start_scores(net, PruneSettings(score="snip"))
    h = 1e-5
    for i in range(len(flat)):
        away = torch.zeros_like(flat)
        away[i] = h
        slope = (loss(flat + away) - loss(flat - away)) / (2 * h)
        assert math.isclose(found[i], abs(flat[i] * slope), rel_tol=1e-3, abs_tol=1e-7)


def test_grasp_is_minus_half_of_the_change_of_the_squared_gradient_to_first_order():
    net = net_of(small(), 4)
    loss, flat = in_float64(net)

    def half_norm(w):
        w = w.detach().requires_grad_()
        return torch.autograd.grad(loss(w), w)[0].square().sum() / 2

    found = start_scores(net, PruneSettings(score="grasp"))
    h = 1e-5
    for i in range(len(flat)):
        away = torch.zeros_like(flat)
        away[i] = h
        slope = (half_norm(flat + away) - half_norm(flat - away)) / (2 * h)
        assert math.isclose(found[i], flat[i] * slope, rel_tol=1e-3, abs_tol=1e-7)


def test_synflow_of_a_linear_chain_is_the_product_along_all_paths_and_conserved():
    module = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 3, bias=False))
    net = net_of(module, 4)
    rule = PruneSettings(score="synflow", fraction=1e-9)
    found = start_scores(net, rule)
    first, second = (p.detach().double().abs() for p in module.parameters())
    expected = [first * second.sum(0)[:, None], second * first.sum(1)]
    torch.testing.assert_close(found, torch.cat([e.reshape(-1) for e in expected]), rtol=1e-6, atol=0)
    torch.testing.assert_close(found[:20].sum(), found[20:].sum())


def test_synflow_prunes_round_by_round_and_empties_no_layer_at_a_hundredth():
    torch.manual_seed(0)
    net = net_of(conv((3, 8, 8), 3, widths=(8, 16, 16)), 3, 8, 8)  # without shortcuts, which let a layer be empty
    rule = PruneSettings(score="synflow", fraction=0.99)
    scores, dense = start_scores(net, rule), torch.ones(net.layout.numel, dtype=torch.bool)
    gone = int((scores[net.layout.prunable] == -math.inf).sum())
    total = int(net.layout.prunable.sum())
    assert gone == pytest.approx(total * (1 - 0.01 ** (1 - 1 / SYNFLOW_ROUNDS)), abs=SYNFLOW_ROUNDS)
    mask = prune(net.layout, dense, scores, rule.fraction, "global")
    assert int(mask[net.layout.prunable].sum()) == total - round(0.99 * total)
    assert all(bool(mask[s.slice].any()) for s in net.layout.prunable_segments())


@pytest.mark.parametrize("score", ["snip", "grasp", "synflow"])
def test_the_module_is_left_as_it_was(score):
    module = resnet(8, (3, 8, 8), 3, width=4)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.eval()
    net = net_of(module, 3, 8, 8)
    first = start_scores(net, PruneSettings(score=score))
    assert torch.equal(first, start_scores(net, PruneSettings(score=score)))
    assert not module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_scores_that_are_all_zero_are_refused():
    module = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    with torch.no_grad():
        module[2].weight.zero_()
    with pytest.raises(TombolaError, match="score synflow of the untrained network is 0 for every weight"):
        start_scores(net_of(module, 4), PruneSettings(score="synflow"))
