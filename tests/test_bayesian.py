"""The Python entry: a loop of one's own, and tickets from tensors in memory."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from tombola import Bayesian, PosteriorSettings, PruneSettings, TombolaError, TrainSettings, find_tickets, load
from tombola.posterior.likelihood import GaussianNoise
from tombola.streams import generator


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def data(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    stream = generator("bayesian")
    return torch.randn(32, 4, generator=stream, dtype=dtype), torch.randint(3, (32,), generator=stream)


def test_negative_elbo_and_its_gradients_equal_autograds():
    inputs, targets = data(torch.float64)
    module = net().double()
    bnn = Bayesian(module, posterior=PosteriorSettings(std=0.1), prior_std=0.7)
    loss = bnn.negative_elbo(inputs, targets, examples=100, heat=0.5, samples=2)
    (3 * loss).backward()

    mean, log_std = (p.detach().clone().requires_grad_() for p in (bnn.mean, bnn.log_std))
    nll = torch.zeros((), dtype=torch.float64)
    for tick in range(2):
        theta = mean + log_std.exp() * bnn._weight_sample().noise.window(tick).clone()
        nll = nll + F.cross_entropy(functional_call(module, bnn.layout.views(theta), (inputs,)), targets) / 2
    q, p = torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 0.7)
    expected = nll + 0.5 / 100 * torch.distributions.kl_divergence(q, p).sum()
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(bnn.mean.grad, mean.grad)
    torch.testing.assert_close(bnn.log_std.grad, log_std.grad)


def test_gradients_accumulate_as_of_any_loss():
    inputs, targets = data()
    bnn = Bayesian(net())
    for _ in range(2):
        bnn.step = 0  # the same noise
        bnn.negative_elbo(inputs, targets, examples=32).backward()
    twice = bnn.mean.grad.clone()
    bnn.mean.grad, bnn.step = None, 0
    bnn.negative_elbo(inputs, targets, examples=32).backward()
    torch.testing.assert_close(twice, 2 * bnn.mean.grad)


def test_an_ordinary_loop_learns_prunes_and_saves(tmp_path):
    inputs, targets = data()
    bnn = Bayesian(net())
    losses = []
    optimiser = torch.optim.Adam(bnn.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        loss = bnn.negative_elbo(inputs, targets, examples=32, heat=0.01)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    probs = bnn.predict(inputs, samples=4).probs
    torch.testing.assert_close(probs.sum(1), torch.ones(32, dtype=torch.float64))
    bnn.ticket().save(tmp_path / "t.safetensors")
    again = load(tmp_path / "t.safetensors", net())
    assert torch.equal(again.posterior.mean, bnn.mean.detach())
    start = bnn._start.posterior.mean
    ticket = bnn.prune("snr", 0.5)
    assert ticket.density == pytest.approx(0.5)
    assert torch.equal(bnn.mean.detach(), start * ticket.mask)  # the survivors are where they began


def test_what_the_likelihood_learned_is_rewound_too():
    inputs, _ = data()
    bnn = Bayesian(net(), likelihood=GaussianNoise(0.5, learn_noise=True), prune=PruneSettings(classifier=True))
    optimiser = torch.optim.Adam(bnn.parameters(), lr=0.05)
    for _ in range(5):
        optimiser.zero_grad()
        bnn.negative_elbo(inputs, torch.zeros(32, 3), examples=32).backward()
        optimiser.step()
    assert bnn.likelihood.noise_std != pytest.approx(0.5)
    bnn.prune("mu", 0.5)
    assert bnn.likelihood.noise_std == pytest.approx(0.5)
    with pytest.raises(TombolaError, match="no class probabilities"):
        bnn.predict(inputs)


@pytest.mark.parametrize("rewind", ["init", "epoch:1", "step:3", "learning_rate"])
def test_tickets_are_nested_exact_and_reproducible(rewind: str):
    inputs, targets = data()
    module = net()
    before = [p.clone() for p in module.parameters()]
    train, prune = TrainSettings(epochs=2, batch_size=8), PruneSettings(levels=3, fraction=0.25, rewind=rewind)

    def find() -> list:
        return find_tickets(module, inputs, targets, train=train, prune=prune, seed=1, progress=False)

    tickets = find()
    assert [int(t.mask[t.layout.prunable].sum()) for t in tickets] == [32, 24, 18, 14]  # a quarter each, ties to even
    for dense, sparse in itertools.pairwise(tickets):
        assert bool((sparse.mask <= dense.mask).all())
    for a, b in zip(tickets, find(), strict=True):
        assert torch.equal(a.posterior.mean, b.posterior.mean)
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))
    if rewind == "init":
        kept = tickets[-1].mask
        assert torch.equal(tickets[-1].rewind.posterior.mean[kept], tickets[0].rewind.posterior.mean[kept])
    if rewind == "learning_rate":
        kept = tickets[-1].mask
        assert torch.equal(tickets[-1].rewind.posterior.mean[kept], tickets[-2].posterior.mean[kept])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train": TrainSettings(method="map")}, "needs a std"),
        ({"prune": PruneSettings(rewind="epoch:99", levels=1)}, "nothing would be trained"),
        ({"prune": PruneSettings(exclude=["*"], levels=1)}, "nothing is prunable"),
        ({"train": TrainSettings(likelihood="gaussian")}, "does not fit targets"),
        ({"prune": PruneSettings(score="snrr")}, "did you mean 'snr'"),
        ({"prune": PruneSettings(rewind="later")}, "rewind is 'later'"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(changes: dict, sentence: str):
    with pytest.raises(TombolaError, match=sentence):
        find_tickets(net(), *data(), progress=False, **changes)


def test_a_deterministic_chain_has_no_std():
    tickets = find_tickets(
        net(),
        *data(),
        train=TrainSettings(method="map", epochs=2),
        prune=PruneSettings(score="magnitude", levels=1),
        progress=False,
    )
    assert float(tickets[-1].posterior.std.abs().max()) == 0.0
    assert tickets[-1].predict(net(), data()[0]).probs_SBC.shape[0] == 1
