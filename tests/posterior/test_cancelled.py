"""Biases that a batch norm takes out, against the outputs of perturbed ones in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tombola import PosteriorSettings, PruneSettings, streams
from tombola.models import build
from tombola.posterior.cancelled import cancelled_biases
from tombola.posterior.layout import Layout
from tombola.posterior.state import layout_of


class Mixed(nn.Module):
    """One bias that batch norm takes out; others reach the output by another way, or not through a batch norm alone."""

    def __init__(self):
        super().__init__()
        self.taken, self.beside, self.inplace, self.twice, self.shown, self.dropped = (nn.Linear(3, 3) for _ in range(6))
        self.norms = nn.ModuleList(nn.BatchNorm1d(3) for _ in range(6))
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        x = self.norms[0](self.taken(x)).relu()
        y = self.beside(x)
        x = self.norms[1](y) + y
        x = self.norms[2](F.relu(self.inplace(x), inplace=True))
        x = self.norms[3](self.twice(x)) + self.twice(x).tanh()
        z = self.shown(x)
        x = self.norms[4](z)
        return self.head(self.norms[5](F.dropout(self.dropped(x), 0.5, self.training))), z


class Frozen(nn.Module):
    """A batch norm that its module keeps in evaluation mode takes nothing out."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(self.linear(x))


class Tied(nn.Module):
    """A bias of two layers, of which one has no batch norm behind it."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.second.bias = self.first.bias

    def forward(self, x):
        return self.second(self.norm(self.first(x)))


def zero_gain():
    """Nothing before it reaches the output now, but it can when it has learned."""
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.BatchNorm1d(3))
    nn.init.zeros_(module[3].weight)
    return module


def perturbed(module, x, name):
    """Largest change of the training-mode output, in float64, where one bias is moved by about 1."""
    module = module.double()

    def run():
        with torch.no_grad(), streams.global_stream("dropout"):
            found = module.train()(x.double())
        return torch.cat(found, 1) if isinstance(found, tuple) else found

    before, bias = run(), module.get_parameter(name)
    bias.data += torch.randn(bias.shape, generator=streams.generator("shift", name))
    return float((run() - before).abs().max())


CASES = {
    "mixed": (Mixed, (8, 3), {"taken.bias"}),
    "frozen": (Frozen, (8, 3), set()),
    "tied": (Tied, (8, 3), set()),
    "plain": (lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU()), (8, 3), set()),
    "vgg": (
        lambda: build("vgg11", {"width": 2}, input_shape=(1, 16, 16), outputs=3, stream=("t",)),
        (4, 1, 16, 16),
        {f"segment{i}.conv{k}.bias" for i, k in ((1, 1), (2, 1), (3, 1), (3, 2), (4, 1), (4, 2), (5, 1), (5, 2))},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_biases_found_are_those_that_change_nothing(case):
    make, shape, expected = CASES[case]
    x = torch.randn(shape, generator=streams.generator("x"))
    with streams.global_stream("net"):
        module = make()
    found = cancelled_biases(module, x)
    assert found == expected
    for name in [n for n, _ in module.named_parameters() if n.endswith("bias") and "norm" not in n]:
        changed = perturbed(module, x, name)
        assert changed < 1e-9 if name in found else changed > 1e-4, name


def test_a_layer_that_is_switched_off_is_not_taken_for_one_that_is_taken_out():
    assert cancelled_biases(zero_gain(), torch.randn(8, 3)) == {"2.bias"}


def test_the_module_is_as_it_was():
    module = Mixed().eval()
    module.norms[2].train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes, state = [m.training for m in module.modules()], torch.get_rng_state()
    cancelled_biases(module, torch.randn(8, 3, generator=streams.generator("x")))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert [m.training for m in module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(not m._forward_hooks for m in module.modules())
    assert all(p.grad is None for p in module.parameters())


def test_they_are_deterministic_unless_patterns_choose_them():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    found = cancelled_biases(module, torch.randn(4, 3))
    segments = {s.name: s for s in Layout.of(module, cancelled=found).segments}
    assert [segments[n].random for n in ("0.weight", "0.bias", "2.bias")] == [True, False, True]
    assert "batch norm after it takes it out" in segments["0.bias"].why
    chosen = layout_of(module, PosteriorSettings(random=["*"]), PruneSettings(), found)
    assert all(s.random for s in chosen.segments)
