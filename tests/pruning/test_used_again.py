"""Units of networks in which a part, or a weight, is used twice: by brute force over each unit."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from tombola.posterior.layout import Layout
from tombola.pruning.structure import prune_units
from tombola.pruning.units import units_of


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(6, 1, 1) + 0.5)

    def forward(self, x):
        return x * self.scale


class Shared(nn.Module):
    """Two layers with one part behind both of them."""

    def __init__(self, part):
        super().__init__()
        self.one, self.two, self.last, self.part = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Linear(6, 4), part

    def forward(self, x):
        x = self.part(self.two(self.part(self.one(x)).relu())).relu()
        return self.last(x.mean((2, 3)))


class Again(nn.Module):
    """A weight that is used twice, as it is and by `way`."""

    def __init__(self, width, way, outputs):
        super().__init__()
        self.first, self.second = nn.Linear(4, 7), nn.Linear(7, width)
        self.shared, self.last, self.way = nn.Linear(width, 6, bias=False), nn.Linear(outputs, 3), way

    def forward(self, x):
        x = self.shared(self.second(self.first(x).relu()).relu()).relu()
        return self.last(nn.functional.linear(x, self.way(self.shared.weight)).relu())


USED_AGAIN = {  # and the units that are left: the same use makes channels one, another makes them fixed
    "batch norm": (lambda: Shared(nn.BatchNorm2d(6).eval()), 6),
    "depthwise": (lambda: Shared(nn.Conv2d(6, 6, 3, padding=1, groups=6)), 6),
    "parameter": (lambda: Shared(Scale()), 6),
    "layer": (lambda: Again(6, lambda weight: weight, 6), 7 + 6),
    "transposed": (lambda: Again(5, torch.t, 5), 7),
    "square transposed": (lambda: Again(6, torch.t, 6), 7),
    "part": (lambda: Again(6, lambda weight: weight[2:5], 3), 7),
}


@pytest.mark.parametrize("what", USED_AGAIN)
def test_what_is_used_twice_dies_once_with_all_its_uses(what):
    """Each unit alone: what dies with it changes nothing that is not read from it, and is counted once."""
    make, count = USED_AGAIN[what]
    torch.manual_seed(0)
    module = make().eval()
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.add_(torch.rand(p.shape), alpha=0.5 * ("part" in name))
    own, inputs = Layout.of(module), torch.randn(3, *((4,) if isinstance(module, Again) else (3, 5, 5)))
    found = units_of(module, own, inputs, "units")
    assert len(found) == count

    def outputs(dead):
        zeros = own.views(dead[: own.numel])
        values = {name: p.detach().masked_fill(zeros[name], 0) for name, p in module.named_parameters()}
        return functional_call(module, values, (inputs,), tie_weights=False)

    dense = torch.ones(own.numel, dtype=torch.bool)
    for unit in range(count):
        alive = torch.arange(count) != unit
        read = torch.zeros(found.size, dtype=torch.bool)
        for product in found.products:
            read[product.places[:, product.read == unit].flatten()] = True
        torch.testing.assert_close(outputs(found.dead(alive)), outputs(read))
        lost = float((dense & ~found.masked(dense, alive) & own.prunable).sum())
        mask, gone = prune_units(found, dense, alive.double(), lost, own.prunable.double())
        assert gone == lost
        assert torch.equal(mask, found.masked(dense, alive))
