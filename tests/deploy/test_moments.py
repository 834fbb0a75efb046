"""Moments in one pass: against weight samples, closed forms and float64, on dense and on sparse kernels."""

import pytest
import torch
import torch.nn.functional as F
from benchmarks.tickets import random_ticket
from torch import nn

import tombola
from tombola.data import digits
from tombola.models import build
from tombola.predict.shipped import SHIPPED as SHIPPED_TICKETS

pytest.importorskip("numba")
from tombola.deploy import compile_moments, mixing
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
        (relu_moments(x, 2, None), at.relu()),
        (smooth_moments(x, 2, torch.nn.functional.gelu, (), None), torch.nn.functional.gelu(at)),
        (smooth_moments(x, 2, torch.tanh, (), None), at.tanh()),
    ):
        mean = (weight * value).sum(1)
        variance = (weight * (value - mean[:, None]).square()).sum(1)
        torch.testing.assert_close(found[0, :75], mean, rtol=0, atol=5e-3)
        torch.testing.assert_close(found[0, 75:150], variance, rtol=0, atol=2e-2)
        if value.min() >= 0:  # the closed form
            torch.testing.assert_close(found[0, :150], torch.cat([mean, variance]), rtol=0, atol=1e-6)


SHIPPED = {
    "mlp": ((1, 8, 8), {}),
    "lenet": ((1, 8, 8), {}),
    "conv": ((3, 8, 8), {"batch_norm": True}),
    "resnet": ((3, 8, 8), {"depth": 8, "width": 4}),
    "resnet18": ((3, 8, 8), {"width": 4}),
    "vgg11": ((3, 16, 16), {"width": 4}),
    "vit": ((3, 8, 8), {"dim": 16, "heads": 2, "depth": 1, "head": 8}),
    "fast": ((3, 8, 8), {"width": 4}),
}


SIBLINGS = ("lenet", "conv", "resnet18", "vgg11")
"""Networks whose operations others have as well."""


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SIBLINGS)) for n in SHIPPED])
def test_all_shipped_networks_have_moments(name):
    shape, args = SHIPPED[name]
    module, x = build(name, args, shape, 10, ("moments", name)), inputs(4, shape)
    ticket = random_ticket(module, 0.5, std=0.1)
    mean, variance = compile_moments(ticket, module, x, kernels="dense", training=inputs(32, shape))(x)
    assert bool(mean.isfinite().all())
    assert bool((variance > 0).all())
    still = compile_moments(random_ticket(module, 0.5, std=1e-6), module, x, kernels="dense")(x)[0]
    expected = torch.func.functional_call(module.eval(), ticket.state_dict(module), (x,))
    torch.testing.assert_close(still, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_of_a_trained_ticket_moments_are_twice_as_near_as_sixteen_samples():
    """Without the factor variances are too small here, since trained outputs add up what hidden values share."""
    ticket, data = tombola.load(SHIPPED_TICKETS["digits"]), digits()
    module, x = build("lenet", {}, (1, 8, 8), 10, ("moments",)), data.test[0][:64]
    probs = ticket.predict(module, x, samples=1200, seed=1).probs_SBC
    expected = probs.mean(0)
    sixteen = sum(distance(some.mean(0), expected) for some in probs.split(16)) / 75
    moments = compile_moments(ticket, module, x, kernels="dense", training=data.train[0])
    assert distance(moments.predict(x), expected) <= sixteen / 2


def test_batch_norm_takes_out_what_is_common():
    """Of a bias nothing is left, and of weights what their inputs differ by, against samples with their own statistics."""
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(24, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), inputs(256, (24,)) + 1
    ticket = random_ticket(module, 1.0, std=0.3).with_statistics(module, x, samples=400)
    outputs = ticket.outputs(module, x, samples=400)
    for training in (None, x):
        mean, variance = compile_moments(ticket, module, x[:9], kernels="dense", training=training)(x)
        assert (variance / outputs.var(0)).mean() == pytest.approx(1, abs=0.15)
        assert (mean - outputs.mean(0)).abs().mean() < 0.2 * outputs.std(0).mean()
    with pytest.warns(UserWarning, match="the ticket has no batch-norm statistics"):
        compile_moments(random_ticket(module, 1.0, std=0.3), module, x[:9], kernels="dense")


def test_mixing_operations_are_those_of_many_draws():
    stream = torch.Generator().manual_seed(0)

    def value(*shape):
        m, v = torch.randn(shape, generator=stream).double(), torch.rand(shape, generator=stream).double() * 0.01
        return m, v, m + v.sqrt() * torch.randn((20_000, *shape), generator=stream).double()

    (a, va, many_a), (b, vb, many_b) = value(2, 3, 5), value(2, 5, 3)
    one, other = mixing.pair_of(a, va), mixing.pair_of(b, vb)
    (c, vc, many_c) = value(2, 6, 3, 3)
    images, weight = mixing.pair_of(c, vc), torch.linspace(0.5, 2, 6).double()
    none = (None, None)
    for found, draws in (
        (mixing.add_moments(one, 2.0, (2, 0), -1), many_a - 2),
        (mixing.product_moments(one, one, (2, 2)), many_a * many_a.roll(1, 0)),
        (mixing.matmul_moments(one, other, (2, 2)), many_a @ many_b),
        (mixing.softmax_moments(one, 2, -1), many_a.softmax(-1)),
        (mixing.norm_moments(one, 2, 1, 0, 1e-5, none, none), F.layer_norm(many_a, (5,))),
        (
            mixing.norm_moments(images, 2, 0, 3, 1e-5, (weight, None), none),
            F.group_norm(many_c.flatten(0, 1), 3, weight).view_as(many_c),
        ),
    ):
        m, v = found.chunk(2, 1 if found.ndim == 4 else -1)
        torch.testing.assert_close(m, draws.mean(0), rtol=0.05, atol=0.02)
        torch.testing.assert_close(v, draws.var(0), rtol=0.1, atol=2e-4)


def test_attention_takes_tokens_as_fully_correlated():
    q, k, v = torch.randn(3, 2, 4, 5, 6).unbind(0)
    shift = torch.rand(2, 4, 1, 6)  # one deviation for all tokens: attention passes it on
    found = mixing.attention_moments(q, k, mixing.pair_of(v, shift.square().expand_as(v)), (1, 1, 2), {})
    mean, variance = found.chunk(2, 1)
    torch.testing.assert_close(mean, F.scaled_dot_product_attention(q, k, v))
    torch.testing.assert_close(variance, shift.square().expand_as(v))


def test_concatenations_embeddings_and_random_norms():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm, self.out = nn.Embedding(7, 4), nn.LayerNorm(8), nn.Linear(8, 3)
            self.other = nn.Embedding(7, 4)

        def forward(self, x):
            return self.out(self.norm(torch.cat([self.embed(x), self.other(x) * 0.5], -1)).mean(1))

    net, x = Net(), torch.randint(7, (6, 1)).repeat(1, 5)  # one token, as averages take positions
    ticket = random_ticket(net, 1.0, std=0.05)
    mean, variance = compile_moments(ticket, net, x, kernels="dense")(x)
    outputs = ticket.outputs(net, x, samples=2000)
    torch.testing.assert_close(mean, outputs.mean(0), rtol=0.1, atol=0.05)
    assert (variance / outputs.var(0)).mean() == pytest.approx(1, abs=0.5)


def test_moments_need_no_numba(monkeypatch):
    module, x = build("lenet", {}, (1, 8, 8), 10, ("moments",)), inputs(5, (1, 8, 8))
    ticket = random_ticket(module, 0.5, std=0.1)
    expected = compile_moments(ticket, module, x, kernels="dense")(x)
    monkeypatch.setattr("tombola.deploy.compiler.find_spec", lambda name: None)
    for one, other in zip(compile_moments(ticket, module, x)(x), expected, strict=True):
        assert torch.equal(one, other)


def test_what_has_no_moments_is_refused():
    class Net(nn.Sequential):
        def forward(self, x):
            return super().forward(x).cumsum(-1)

    module, x = Net(nn.Linear(6, 4)), inputs(2, (6,))
    with pytest.raises(tombola.TombolaError, match="moments have no rule for the operation cumsum"):
        compile_moments(random_ticket(module, 0.2, std=0.1), module, x)
    linear = nn.Linear(6, 4)
    moments = compile_moments(random_ticket(linear, 1.0, std=0.1), linear, inputs(2, (6,)), kernels="dense")
    with pytest.raises(tombola.TombolaError, match="link is 'logit'; it must be sampled or probit"):
        moments.predict(inputs(2, (6,)), link="logit")
    with pytest.raises(tombola.TombolaError, match="samples is 0; it must be at least 1"):
        moments.predict(inputs(2, (6,)), samples=0)
