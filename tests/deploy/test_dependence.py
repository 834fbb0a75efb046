"""Moments take values as independent: those that depend on each other are refused, or have a rule that is exact."""

import pytest
import torch
import torch.nn.functional as F
from benchmarks.tickets import random_ticket
from torch import nn

import tombola
from tombola.deploy import compile_moments


def inputs(batch, shape):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))


class Functions(nn.Module):
    """A function of a random value, of another layer, and of the first layer once more."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.more, self.function = nn.Linear(6, 4), nn.Linear(4, 4), function

    def forward(self, x):
        return self.function(self.layer(x), self.more, lambda: self.layer(x))


DEPENDENT = {
    "square": lambda h, more, again: h * h,
    "gate": lambda h, more, again: h * h.sigmoid(),
    "residual without a layer": lambda h, more, again: h + 2 * h.relu(),
    "concatenation": lambda h, more, again: torch.cat([h, -h.view(-1, 4)], 1),
    "parts": lambda h, more, again: h[:, :2] * h[:, :2],
    "one layer twice": lambda h, more, again: h.tanh() * again(),
    "matrix product": lambda h, more, again: (h[:, :, None] @ h[:, None]).flatten(1),
    "one channel for all": lambda h, more, again: more(h[:, :1].expand(-1, 4)),
}


@pytest.mark.parametrize("what", DEPENDENT)
def test_values_that_depend_on_each_other_are_not_taken_as_independent(what):
    module, x = Functions(DEPENDENT[what]), inputs(5, (6,))
    with pytest.raises(tombola.TombolaError, match=r"no rule for the operation (expand|\S+ of values that depend)"):
        compile_moments(random_ticket(module, 1.0, std=0.3), module, x, kernels="dense")


INDEPENDENT = {
    "gate of the other half": lambda h, more, again: h[:, :2] * h[:, 2:].sigmoid(),
    "residual": lambda h, more, again: h + more(h).relu(),
    "concatenation": lambda h, more, again: torch.cat([h, more(h)], 1),
}


@pytest.mark.parametrize("what", INDEPENDENT)
def test_halves_of_a_value_and_residuals_of_layers_are_independent(what):
    module, x = Functions(INDEPENDENT[what]), inputs(5, (6,))
    ticket = random_ticket(module, 1.0, std=0.1)
    mean, variance = compile_moments(ticket, module, x, kernels="dense")(x)
    sampled = ticket.outputs(module, x, samples=400)
    assert (mean - sampled.mean(0)).abs().max() < 0.3 * sampled.std(0).mean()
    assert (variance.sqrt() / sampled.std(0)).mean() == pytest.approx(1, abs=0.2)


MULTIPLES = {
    2.0: lambda h, more, again: h + h,
    -3.0: lambda h, more, again: torch.sub(h, h, alpha=4),
    0.0: lambda h, more, again: h - h,
}


@pytest.mark.parametrize("times", MULTIPLES)
def test_a_sum_of_a_value_with_itself_is_its_multiple(times):
    module, x = Functions(MULTIPLES[times]), inputs(5, (6,))
    ticket = random_ticket(module, 1.0, std=0.3)
    mean, variance = compile_moments(ticket, module, x, kernels="dense")(x)
    m, s = (ticket.layout.views(part.double()) for part in (ticket.posterior.mean, ticket.posterior.std))
    expected = F.linear(x.double(), m["layer.weight"], m["layer.bias"])
    spread = F.linear(x.double().square(), s["layer.weight"].square(), s["layer.bias"].square())
    torch.testing.assert_close(mean.double(), times * expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(variance.double(), times**2 * spread, rtol=1e-5, atol=1e-5)
