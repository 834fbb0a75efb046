"""Tickets as one: each is a weight sample, used once."""

import pytest
import torch
from torch import nn

from tombola import PruneSettings, TombolaError, TrainSettings, find_tickets, load
from tombola.pruning.ensemble import ensemble_of, members_of


def test_an_ensemble_predicts_by_each_of_its_tickets(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
    data = inputs, (inputs[:, 0] > 0).long()
    settings = TrainSettings(method="map", epochs=2, batch_size=20, lr=0.02)
    prune = PruneSettings(score="mu", levels=1, fraction=0.5)
    found = [find_tickets(net, data, train=settings, prune=prune, seed=seed, progress=False)[-1] for seed in range(3)]
    whole = ensemble_of(found)
    assert torch.equal(whole.mask, found[0].mask | found[1].mask | found[2].mask)
    whole.save(tmp_path / "t")
    outputs = load(tmp_path / "t", net).outputs(net, inputs, samples=16)
    alone = torch.cat([ticket.outputs(net, inputs) for ticket in found])
    assert sorted(o.sum().item() for o in outputs) == pytest.approx(sorted(o.sum().item() for o in alone))
    apart = members_of(whole)
    assert [torch.equal(a.posterior.mean, b.posterior.mean) for a, b in zip(apart, found, strict=True)] == [True] * 3
    assert torch.equal(members_of(found[0])[0].posterior.mean, found[0].posterior.mean)
    with pytest.raises(TombolaError, match="two tickets or more, there is 1"):
        ensemble_of(found[:1])
    other = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    stranger = find_tickets(other, data, train=settings, prune=PruneSettings(score="mu", levels=0), progress=False)
    with pytest.raises(TombolaError, match="ticket 1 has other parameters"):
        ensemble_of([found[0], *stranger])
