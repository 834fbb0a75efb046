"""One level of pruning, shuffles and transplants, on tickets whose numbers are written down."""

import warnings
from unittest import mock

import pytest
import torch
from torch import nn

from tombola.errors import TombolaError
from tombola.posterior.layout import Layout
from tombola.posterior.state import initial_state
from tombola.pruning.iterate import prune_ticket, shuffled, transplanted
from tombola.pruning.scores import SCORES
from tombola.pruning.ticket import Ticket, ticket_of
from tombola.settings import PosteriorSettings, PruneSettings


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


@pytest.fixture
def layout(net):
    return Layout.of(net, classifier=True)


@pytest.fixture
def start(net, layout):
    return initial_state(net, layout, PosteriorSettings(std_jitter=0.1), 0)


def segment(layout, name):
    return next(s for s in layout.segments if s.name == name)


def trained_ticket(state, seed=0, log_std=None):
    """A ticket trained to random means, and to a `log_std` of one's own."""
    ticket = ticket_of(state)
    drawn = torch.randn(state.posterior.layout.numel, generator=torch.Generator().manual_seed(seed))
    q = state.posterior
    tensors = {name: value.clone() for name, value in state.tensors().items()} | {f"posterior.{q.family}.mean": drawn}
    tensors |= {} if log_std is None else {"posterior.gaussian.log_std": log_std}
    return Ticket(ticket.mask, state, type(state).of_tensors(q.layout, q.mask, tensors), {"seed": seed})


def prune_by(ticket, start, score, name="mine", fraction=0.5, scope="global", sigma="trained"):
    how = PruneSettings(score=name, sigma=sigma, fraction=fraction, scope=scope)
    with mock.patch.dict(SCORES, {name: score}):
        return prune_ticket(ticket, start, how, torch.Generator().manual_seed(0))


def same_state(a, b):
    return a.tensors().keys() == b.tensors().keys() and all(torch.equal(v, b.tensors()[k]) for k, v in a.tensors().items())


def test_survivors_restart_whole_at_the_start_and_the_pruned_are_zero(layout, start):
    ticket = trained_ticket(start)
    pruned = prune_by(ticket, start, SCORES["mu"])
    size = ticket.posterior.mean.abs()
    assert pruned.trained is None
    assert pruned.info == ticket.info
    assert int(pruned.mask[layout.prunable].sum()) == 45 - round(45 / 2)
    assert size[pruned.mask & layout.prunable].min() > size[~pruned.mask].max()
    q = pruned.rewind.posterior
    for ours, theirs in ((q.mean, start.posterior.mean), (q.log_std, start.posterior.log_std), (q.std, start.posterior.std)):
        assert torch.equal(ours[pruned.mask], theirs[pruned.mask])
        assert not ours[~pruned.mask].any()
    assert pruned.rewind.buffers.keys() == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert all(torch.equal(value, start.buffers[name]) for name, value in pruned.rewind.buffers.items())


def test_only_survivors_are_scored_and_none_revives(layout, start):
    ticket, seen = trained_ticket(start), []

    def largest_first(mean, std, generator):
        seen.append(mean.clone())
        return mean.abs()

    left, mask = 45, ticket.mask
    for level in range(4):
        ticket = prune_by(ticket, start, largest_first)
        assert seen[-1].numel() == left
        assert not (ticket.mask & ~mask).any()
        left, mask = left - round(left / 2), ticket.mask
        ticket = Ticket(mask, ticket.rewind, trained_ticket(start, level + 1).trained.masked(mask), ticket.info)


def test_scores_see_float64_of_the_trained_posterior(layout, start):
    ticket = trained_ticket(start)

    def check(mean, std, generator):
        assert mean.dtype == std.dtype == torch.float64
        assert torch.equal(mean, ticket.posterior.mean[layout.prunable].double())
        assert torch.equal(std, ticket.posterior.std[layout.prunable].double())
        return mean

    prune_by(ticket, start, check)


def test_the_score_sees_the_sigma_that_is_asked_for(layout, start):
    """The trained one; that of the start; or the trained one permuted among the survivors of each layer."""
    log_std = torch.linspace(-3.0, -1.0, layout.numel)
    first = trained_ticket(start, log_std=log_std)
    pruned = prune_by(first, start, SCORES["mu"])
    ticket = Ticket(pruned.mask, pruned.rewind, first.trained.masked(pruned.mask), {})
    alive = pruned.mask & layout.prunable
    seen = {}
    for sigma in ("trained", "start", "shuffled"):

        def keep(mean, std, generator, sigma=sigma):
            seen[sigma] = mean, std
            return mean

        prune_by(ticket, start, keep, sigma=sigma)
    assert all(torch.equal(mean, ticket.posterior.mean[alive].double()) for mean, _ in seen.values())
    assert torch.equal(seen["trained"][1], ticket.posterior.std[alive].double())
    assert torch.equal(seen["start"][1], start.posterior.std[alive].double())
    assert not torch.equal(seen["shuffled"][1], seen["trained"][1])
    where = torch.arange(layout.numel)[alive]
    for s in layout.prunable_segments():
        own = (where >= s.slice.start) & (where < s.slice.stop)
        assert own.sum() > 1
        assert torch.equal(seen["shuffled"][1][own].sort().values, seen["trained"][1][own].sort().values)


def test_an_emptied_layer_is_named_once(layout, start):
    ticket, first = trained_ticket(start), segment(layout, "0.weight")
    with torch.no_grad():
        ticket.posterior.mean[first.slice] = 0.0
    with pytest.warns(UserWarning, match=r"pruning by mine has emptied layer '0.weight': no weight is left there"):
        pruned = prune_by(ticket, start, SCORES["mu"], fraction=30 / 45)
    assert pruned.layer_density() == {"0.weight": 0.0, "3.weight": 1.0}
    again = Ticket(pruned.mask, pruned.rewind, ticket.trained.masked(pruned.mask))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prune_by(again, start, SCORES["mu"], fraction=0.2)


def test_pruning_an_untrained_ticket_is_an_error(start):
    with pytest.raises(TombolaError, match="no trained state"):
        prune_by(ticket_of(start), start, SCORES["mu"])


@pytest.mark.parametrize("how", ["layerwise", "global", "even"])
def test_shuffled_keeps_the_dense_start_under_the_new_mask(how, start):
    pruned = prune_by(trained_ticket(start), start, SCORES["mu"])
    control = shuffled(pruned, start, how, torch.Generator().manual_seed(1))
    assert control.density == pruned.density
    assert not torch.equal(control.mask, pruned.mask)
    assert same_state(control.rewind, start.masked(control.mask))
    revived = control.mask & ~pruned.mask
    assert revived.any()
    assert torch.equal(control.rewind.posterior.mean[revived], start.posterior.mean[revived])


def test_transplanted_is_the_deterministic_start_with_the_bayesian_std(layout, start):
    point = start.as_family("point")
    ticket = prune_by(trained_ticket(point), point, SCORES["magnitude"], "magnitude")
    planted = transplanted(ticket, start)
    q, mask = planted.rewind.posterior, ticket.mask
    assert torch.equal(planted.mask, mask)
    assert torch.equal(q.mean[mask], ticket.rewind.posterior.mean[mask])
    assert torch.equal(q.std[mask], start.posterior.std[mask])
    assert not q.mean[~mask].any()
    assert not q.std[~mask].any()
    assert planted.trained is None


def test_transplanting_takes_the_means_of_the_ticket_not_of_the_bayesian_net(layout, start, net):
    other = initial_state(net, layout, PosteriorSettings(mean="kaiming_uniform"), 7)
    point = start.as_family("point")
    planted = transplanted(prune_by(trained_ticket(point), point, SCORES["magnitude"], "magnitude"), other)
    random = planted.mask & layout.is_random
    assert torch.equal(planted.rewind.posterior.mean[random], start.posterior.mean[random])
    assert not torch.equal(planted.rewind.posterior.mean[random], other.posterior.mean[random])


def test_transplanting_into_a_point_or_another_model_is_an_error(start):
    point = start.as_family("point")
    ticket = prune_by(trained_ticket(point), point, SCORES["magnitude"], "magnitude")
    with pytest.raises(TombolaError, match="needs a state to take std from"):
        transplanted(ticket, point)
    wider = nn.Linear(6, 4)
    with pytest.raises(TombolaError, match="no transplant"):
        transplanted(ticket, initial_state(wider, Layout.of(wider), PosteriorSettings(), 0))
