"""Moments in one pass: against weight samples, closed forms and float64, on dense and on sparse kernels."""

import pytest
import torch
from benchmarks.tickets import random_ticket
from torch import nn

import tombola
from tombola.models import build

pytest.importorskip("numba")
from tombola.deploy import compile_moments
from tombola.deploy.pointwise import relu_moments, smooth_moments
from tombola.deploy.predictor import Predictor
from tombola.deploy.tune import Choice, layers
from tombola.deploy.uncertain import Moments

# of tickets that were never trained: both sides read the running statistics that they were given
pytestmark = pytest.mark.filterwarnings("ignore:the ticket has no batch-norm statistics")

NETS = {"mlp": (1, 8, 8), "lenet": (1, 8, 8), "conv": (3, 8, 8)}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path))


def inputs(batch, shape):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))


def both_kernels(ticket, module, x):
    """The moments on sparse kernels, and of the same graph in torch."""
    sparse = compile_moments(ticket, module, x[:8], kernels="sparse")
    graph = sparse.predictor._graph
    return sparse, Moments(Predictor(graph, Choice(0, tuple(layers(graph))), x[:8]))


def distance(p, q):
    """Total variation, averaged over examples."""
    return 0.5 * (p - q).abs().sum(-1).mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("density", [1.0, 0.1])
def test_moments_are_nearer_to_ten_thousand_samples_than_sixteen_are(name, density):
    module, x = build(name, {}, NETS[name], 10, ("moments", name)), inputs(32, NETS[name])
    ticket = random_ticket(module, density, std=0.3)
    probs = ticket.predict(module, x, samples=10_000).probs_SBC
    expected = probs.mean(0)
    sixteen = sum(distance(some.mean(0), expected) for some in probs.split(16)[:100]) / 100
    for moments in both_kernels(ticket, module, x):
        assert distance(moments.predict(x), expected) <= sixteen / 2


@pytest.mark.parametrize("name", ["lenet", "conv"])
def test_sparse_and_dense_kernels_agree_and_no_variance_gives_the_network(name):
    module, x = build(name, {}, NETS[name], 10, ("moments", name)), inputs(20, NETS[name])
    ticket = random_ticket(module, 0.2, std=0.3)
    sparse, dense = both_kernels(ticket, module, x)
    for one, other in zip(sparse(x), dense(x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    samples = ticket.outputs(module, x, samples=400)
    assert (sparse(x)[0] - samples.mean(0)).abs().max() < 0.3 * samples.std(0).mean()
    assert (sparse(x)[1].sqrt() / samples.std(0)).mean() == pytest.approx(1, abs=0.15)
    torch.testing.assert_close(sparse.predict(x).sum(-1), torch.ones(20, dtype=torch.float64))
    assert distance(sparse.predict(x, link="probit"), sparse.predict(x)) < 0.02


def test_residual_networks_and_batch_norm_on_both_kernels():
    module, x = build("resnet", {"depth": 8, "width": 8}, (3, 8, 8), 10, ("moments",)), inputs(9, (3, 8, 8))
    ticket = random_ticket(module, 0.2, std=0.1)
    sparse, dense = both_kernels(ticket, module, x)
    for one, other in zip(sparse(x), dense(x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_one_linear_layer_is_exact():
    module, x = nn.Linear(6, 4), inputs(8, (6,))
    ticket = random_ticket(module, 1.0, std=0.5)
    mean, variance = compile_moments(ticket, module, x, kernels="sparse")(x)
    weights = ticket.layout.views(ticket.posterior.mean.double())
    spread = ticket.layout.views(ticket.posterior.std.double().square())
    torch.testing.assert_close(mean.double(), x.double() @ weights["weight"].T + weights["bias"], rtol=1e-5, atol=1e-6)
    expected = x.double().square() @ spread["weight"].T + spread["bias"]
    torch.testing.assert_close(variance.double(), expected, rtol=1e-5, atol=1e-7)


def test_pointwise_moments_are_integrals():
    m = torch.linspace(-3, 3, 25, dtype=torch.float64).repeat(3)
    v = torch.tensor([0.01, 0.5, 3.0], dtype=torch.float64).repeat_interleave(25)
    z = torch.linspace(-9, 9, 40_001, dtype=torch.float64)
    weight = torch.exp(-0.5 * z**2)
    weight /= weight.sum()
    at = m[:, None] + v.sqrt()[:, None] * z
    x = torch.cat([m, v])[None]
    for found, value in (
        (relu_moments(x, 2), at.relu()),
        (smooth_moments(x, 2, torch.nn.functional.gelu, ()), torch.nn.functional.gelu(at)),
        (smooth_moments(x, 2, torch.tanh, ()), at.tanh()),
    ):
        mean = (weight * value).sum(1)
        variance = (weight * (value - mean[:, None]).square()).sum(1)
        torch.testing.assert_close(found[0, :75], mean, rtol=0, atol=5e-3)
        torch.testing.assert_close(found[0, 75:150], variance, rtol=0, atol=2e-2)
        if value.min() >= 0:  # the closed form
            torch.testing.assert_close(found[0, :150], torch.cat([mean, variance]), rtol=0, atol=1e-6)


def test_what_has_no_moments_is_refused():
    module, x = build("vit", {"dim": 16, "heads": 1, "depth": 1}, (3, 8, 8), 10, ("moments",)), inputs(2, (3, 8, 8))
    with pytest.raises(tombola.TombolaError, match="moments have no rule for the operation layer_norm"):
        compile_moments(random_ticket(module, 0.2, std=0.1), module, x)
    linear = nn.Linear(6, 4)
    moments = compile_moments(random_ticket(linear, 1.0, std=0.1), linear, inputs(2, (6,)), kernels="dense")
    with pytest.raises(tombola.TombolaError, match="link is 'logit'; it must be sampled or probit"):
        moments.predict(inputs(2, (6,)), link="logit")
    with pytest.raises(tombola.TombolaError, match="samples is 0; it must be at least 1"):
        moments.predict(inputs(2, (6,)), samples=0)
