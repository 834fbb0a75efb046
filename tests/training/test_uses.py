"""Multiply-adds of weights and tickets, against counts by hand; and searches by them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tombola import PruneSettings, TombolaError, TrainSettings, find_tickets
from tombola.models import build
from tombola.posterior.layout import Layout
from tombola.posterior.state import initial_state
from tombola.pruning.ticket import ticket_of
from tombola.settings import PosteriorSettings
from tombola.training.costs import kept_counts, operations_of

TRAIN = TrainSettings(epochs=1, batch_size=16)


class Odd(nn.Module):
    """A weight that is used twice, one with groups and stride, a transposed one, attention, and one that nobody uses."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, stride=2, groups=2)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.attention = nn.MultiheadAttention(5, 1, batch_first=True)
        self.twice = nn.Linear(5, 5)
        self.idle = nn.Linear(5, 5)

    def forward(self, x):
        tokens = self.up(self.conv(x)).flatten(2).transpose(1, 2)  # [B, 36, 5]: of 7x7 are 3x3, then 6x6
        seen, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.twice(F.relu(self.twice(seen))).mean(1)


@pytest.mark.parametrize("examples", [1, 3])
def test_uses_are_those_by_hand(examples):
    module = Odd().train()
    found = operations_of(module, torch.randn(examples, 4, 7, 7))
    assert module.training
    used = {name: count for name, count in found.uses.items() if count}
    assert used == {
        "conv.weight": 9,
        "up.weight": 9,
        "attention.in_proj_weight": 36,
        "attention.out_proj.weight": 36,
        "twice.weight": 72,
    }
    by_weights = sum(count * module.get_parameter(name).numel() for name, count in used.items())
    assert found.total == by_weights + 2 * 36 * 36 * 5  # scores of attention, and the average by them


def test_a_ticket_leaves_what_its_mask_leaves():
    net = build("resnet", {"depth": 8, "width": 2}, (3, 8, 8), 10, ("costs",))
    operations = operations_of(net, torch.randn(2, 3, 8, 8))
    ticket = ticket_of(initial_state(net, Layout.of(net), PosteriorSettings(), 0))
    layout = ticket.layout
    assert operations.left(layout, kept_counts(layout, ticket.mask)) == 1
    segment = ticket.layout.prunable_segments()[0]
    assert segment.name == "stem.conv.weight"
    ticket.mask[segment.slice.start : segment.slice.start + 10] = False
    assert operations.left(layout, kept_counts(layout, ticket.mask)) == pytest.approx(
        1 - 10 * 64 / operations.total, rel=1e-12
    )
    assert operations_of(nn.Identity(), torch.zeros(1, 1)).total == 0


def images(count=32):
    stream = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 8, 8, generator=stream), torch.randint(10, (count,), generator=stream)


@pytest.mark.parametrize("method", ["vi", "map"])
@pytest.mark.parametrize("scope", ["global", "layerwise"])
def test_a_search_by_operations_keeps_its_share_of_them(method, scope):
    net = build("resnet", {"depth": 8, "width": 2}, (3, 8, 8), 10, ("costs",))
    score = "mu" if method == "map" else "snr"
    train = TrainSettings(epochs=1, batch_size=16, method=method)
    prune = PruneSettings(score=score, scope=scope, budget="flops", fraction=0.5, target=0.2)
    tickets = find_tickets(net, images(), train=train, prune=prune, progress=False)
    uses = operations_of(net, images(2)[0]).uses
    layout = tickets[0].layout
    shares = [
        sum(uses[s.name] * int(t.mask[s.slice].sum()) for s in layout.prunable_segments())
        / sum(uses[s.name] * s.numel for s in layout.prunable_segments())
        for t in tickets
    ]
    one = max(uses.values()) / sum(uses[s.name] * s.numel for s in layout.prunable_segments())
    bound = one * (len(layout.prunable_segments()) if scope == "layerwise" else 1)
    assert shares == pytest.approx([0.2 ** (level / 3) for level in range(4)], abs=bound)
    assert tickets[0].info["costs"] == {s.name: uses[s.name] for s in layout.prunable_segments()}


def test_a_search_keeps_the_pattern():
    net = build("resnet", {"depth": 8, "width": 4}, (3, 8, 8), 10, ("costs",))
    last = find_tickets(net, images(), train=TRAIN, prune=PruneSettings(pattern="2:4"), progress=False)[-1]
    density = last.layer_density()
    assert density.pop("stem.conv.weight") == 1.0  # three inputs
    assert set(density.values()) == {0.5}


def test_a_prunable_weight_without_uses_is_named():
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 8)), nn.Linear(8, 3))
    with pytest.raises(TombolaError, match=r"have a cost of 0\.0; exclude them"):
        find_tickets(
            net,
            (torch.randn(8, 4), torch.arange(8) % 3),
            train=TRAIN,
            prune=PruneSettings(score="mu", budget="flops", include=["*original1"], levels=1),
            progress=False,
        )


def test_a_pattern_that_fits_nothing_is_refused_before_the_training():
    net = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3))
    with pytest.raises(TombolaError, match="groups of 4 fits no prunable weight"):
        find_tickets(net, (torch.randn(8, 5), torch.arange(8) % 3), prune=PruneSettings(pattern="2:4"), progress=False)
