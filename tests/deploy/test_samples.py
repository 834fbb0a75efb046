"""Compiled weight samples and points: each as the ticket and the masked network in torch have it."""

from dataclasses import replace

import pytest
import torch
from benchmarks.tickets import random_ticket
from torch import nn

import tombola
from tombola import Ticket
from tombola.models import build
from tombola.posterior.functional import holding
from tombola.posterior.samples import Samples

pytest.importorskip("numba")
from tombola.deploy import compile_moments, compile_samples

# of tickets that were never trained: both sides read the running statistics that they were given
pytestmark = pytest.mark.filterwarnings("ignore:the ticket has no batch-norm statistics")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path))


def inputs(batch, shape):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))


def call(module, values, x):
    """The outputs of the network at these parameters, by torch."""
    with torch.no_grad():
        return holding(module.eval(), values)(x)


def test_compiled_samples_are_those_of_the_ticket():
    module, x = build("conv", {"batch_norm": True}, (3, 8, 8), 10, ("moments",)), inputs(20, (3, 8, 8))
    ticket = random_ticket(module, 0.3, std=0.2).with_statistics(module, x, samples=3)
    compiled = compile_samples(ticket, module, x[:8], samples=3, kernels="sparse")
    expected = ticket.outputs(module, x, samples=3)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    probs = compiled.predict(x).probs
    torch.testing.assert_close(probs, ticket.predict(module, x, samples=3).probs, rtol=1e-3, atol=1e-5)
    with pytest.raises(tombola.TombolaError, match="samples is 0; it must be at least 1"):
        compile_samples(ticket, module, x[:8], samples=0)
    with pytest.raises(tombola.TombolaError, match="keeps batch-norm statistics of 3 weight samples of seed 0, not of 4"):
        compile_samples(ticket, module, x[:8], samples=4)


def kept_points(module, count):
    """A ticket of a finite posterior: each of the points at random."""
    ticket = random_ticket(module, 0.5, std=0.3)
    q = ticket.posterior
    kept = torch.stack([q.sample(torch.Generator().manual_seed(seed)) for seed in range(count)])
    state = replace(ticket.end, posterior=Samples(q.layout, q.mask, kept[0], kept))
    return Ticket(ticket.mask, state, state)


@pytest.mark.parametrize("norm", [False, True])
def test_of_a_finite_posterior_each_point_is_compiled_once(norm):
    module, x = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 4)), inputs(9, (3, 8, 8))
    if norm:
        module.insert(1, nn.BatchNorm2d(5))
    ticket = kept_points(module, 4)
    ticket = ticket.with_statistics(module, x) if norm else ticket
    compiled = compile_samples(ticket, module, x, samples=16, kernels="dense")
    torch.testing.assert_close(compiled(x), ticket.outputs(module, x, samples=16), rtol=1e-4, atol=1e-5)
    if not norm:  # the average over the members, each once
        members = [call(module, ticket.layout.views(point), x) for point in ticket.posterior.points]
        torch.testing.assert_close(compiled(x).mean(0), torch.stack(members).mean(0), rtol=1e-4, atol=1e-5)


def test_moments_of_a_finite_posterior_have_the_variance_over_its_points():
    """The factor of the outputs is measured on all of them, whose number is the divisor."""
    module, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), inputs(20, (6,))
    ticket = kept_points(module, 4)
    variance = compile_moments(ticket, module, x, kernels="dense")(x)[1]
    torch.testing.assert_close(variance.mean(0).sum(), ticket.outputs(module, x).var(0, correction=0).mean(0).sum())


class Apart(nn.Module):
    """A layer that is used twice, tied to another, and registered under two names; few channels survive of any."""

    def __init__(self):
        super().__init__()
        self.first, self.tied, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.again, self.tied.weight = self.first, self.first.weight

    def forward(self, x):
        return self.last(self.again(self.tied(self.first(x).relu()).relu()))


def test_layers_that_are_used_twice_lose_the_dead_channels_of_each_use():
    module, x = Apart(), inputs(9, (6,))
    with torch.no_grad():
        module.first.weight[:, 1] = 0
        module.first.weight[2] = 0
        module.last.weight[:, 4] = 0
    ticket = random_ticket(module, 1.0, std=0.2)
    ticket = replace(ticket, trained=ticket.end.masked(ticket.posterior.mean != 0))
    found = compile_samples(ticket, module, x, samples=3, kernels="dense")(x)
    torch.testing.assert_close(found, ticket.outputs(module, x, samples=3), rtol=1e-4, atol=1e-5)
    mean = call(module, ticket.layout.views(ticket.posterior.mean), x)
    torch.testing.assert_close(tombola.compile(ticket, module, x, kernels="dense")(x), mean, rtol=1e-4, atol=1e-5)
    assert type(module.again.weight) is nn.Parameter


def test_samples_and_moments_of_networks_that_mix_examples_are_refused():
    class Mixing(nn.Sequential):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    module, x = Mixing(nn.Linear(64, 10)), inputs(9, (64,))
    ticket = random_ticket(module, 0.2, std=0.1)
    for compiled in (compile_samples, compile_moments):
        with pytest.raises(tombola.TombolaError, match="depend on the other examples of a batch, cannot be compiled"):
            compiled(ticket, module, x, kernels="sparse")
