"""Plain attributes that forward passes write to come back, whatever they are."""

from collections import deque

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tombola import PruneSettings, TrainSettings, find_tickets

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3


class Remembering(nn.Module):
    """One attribute of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.total, self.table = torch.zeros(3), np.zeros(2)
        self.seen, self.last, self.names, self.log = deque([1]), {"n": 0, "parts": [torch.zeros(())]}, {"a"}, [0]
        self.draws = torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x) + torch.randn(3, generator=self.draws)
        self.total += out.detach().mean(0)
        self.table += 1
        self.seen.append(2)
        self.last["n"] += 1
        self.last["parts"][0].add_(1)
        self.names.add("b")
        self.log.append(out)
        return out

    def contents(self) -> list[object]:
        last = self.last["n"], self.last["parts"][0].item()
        return [self.total.tolist(), self.table.tolist(), [*self.seen], last, self.names.copy(), [*self.log]]


@pytest.mark.parametrize("method", ["vi", "map"])
def test_attributes_that_a_pass_writes_to_come_back(method):
    torch.manual_seed(0)
    net = Remembering()
    own = net.total, net.table, net.seen, net.last, net.names, net.log
    before, state = net.contents(), net.draws.get_state()
    train = TrainSettings(epochs=1, batch_size=6, method=method)
    (ticket,) = find_tickets(net, (X, Y), train=train, prune=PruneSettings(score="mu", levels=0), progress=False)
    first = ticket.outputs(net, X, samples=2)
    assert torch.equal(ticket.outputs(net, X, samples=2), first)  # its own generator draws the same again
    assert net.contents() == before
    assert torch.equal(net.draws.get_state(), state)
    assert all(a is b for a, b in zip(own, (net.total, net.table, net.seen, net.last, net.names, net.log), strict=True))
