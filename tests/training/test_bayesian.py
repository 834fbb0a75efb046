"""The Python entry: a loop of one's own, and tickets from tensors in memory."""

import itertools
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from tombola import Bayesian, PosteriorSettings, PruneSettings, TombolaError, TrainSettings, find_tickets, load, train
from tombola.data.batches import TensorBatches
from tombola.posterior.likelihood import GaussianNoise
from tombola.posterior.state import initial_state
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
    loss = bnn.negative_elbo((inputs, targets), examples=100, heat=0.5, samples=2)
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
        bnn.negative_elbo((inputs, targets), examples=32).backward()
    twice = bnn.mean.grad.clone()
    bnn.mean.grad, bnn.step = None, 0
    bnn.negative_elbo((inputs, targets), examples=32).backward()
    torch.testing.assert_close(twice, 2 * bnn.mean.grad)


def test_two_halves_of_a_batch_accumulate_to_the_whole():
    inputs, targets = data(torch.float64)
    # with a std of nearly nothing the noise, which differs between calls, does not matter
    bnn = Bayesian(net().double(), posterior=PosteriorSettings(std=1e-12))
    for half in (slice(0, 16), slice(16, 32)):
        (bnn.negative_elbo((inputs[half], targets[half]), examples=32, heat=0.7) / 2).backward()
    mean, log_std = bnn.mean.grad.clone(), bnn.log_std.grad.clone()
    bnn.zero_grad()
    bnn.negative_elbo((inputs, targets), examples=32, heat=0.7).backward()
    torch.testing.assert_close(mean, bnn.mean.grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_std, bnn.log_std.grad, rtol=1e-9, atol=1e-9)


def test_the_gradients_of_pruned_and_deterministic_parameters_are_zero():
    inputs, targets = data()
    module = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    bnn = Bayesian(module)
    bnn.prune("random", 0.5)
    bnn.negative_elbo((inputs, targets), examples=32, heat=1.0, samples=3).backward()
    assert bool((bnn.mean.grad[~bnn.mask] == 0).all())
    fixed = ~bnn.layout.is_random
    assert bool((bnn.log_std.grad[fixed | ~bnn.mask] == 0).all())
    assert bool((bnn.mean.grad[fixed] != 0).all())


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adagrad", "Adadelta", "NAdam", "RAdam", "Rprop", "Adamax", "ASGD"])
def test_any_torch_optimiser_trains_it(name: str):
    inputs, targets = data()
    module = net()
    bnn, before = Bayesian(module), [p.clone() for p in module.parameters()]
    optimiser = getattr(torch.optim, name)(bnn.parameters(), lr={"Adadelta": 3.0, "Rprop": 1e-3}.get(name, 0.05))

    def loss() -> Tensor:
        return bnn.negative_elbo((inputs, targets), examples=32, heat=0.01)

    first = loss().item()
    for _ in range(60):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    assert loss().item() < first - 0.05
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))  # the module is as it was


def test_uncertainty_is_in_bounds():
    inputs, _ = data()
    prediction = Bayesian(net(), posterior=PosteriorSettings(std=0.7)).predict(inputs, samples=8)
    torch.testing.assert_close(prediction.probs_SBC.sum(-1), torch.ones(8, 32, dtype=torch.float64))
    assert bool((prediction.mutual_information >= 0).all())
    assert bool((prediction.mutual_information <= prediction.entropy).all())
    assert float(prediction.entropy.max()) <= torch.tensor(3.0).log() + 1e-12
    assert float(prediction.mutual_information.mean()) > 0.01


def test_a_loop_with_autocast_leaves_the_module_its_own_weights():
    (inputs, targets), module = data(), net()
    bnn = Bayesian(module, posterior=PosteriorSettings(std=0.5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = module(inputs)
        bnn.negative_elbo((inputs, targets), examples=32, samples=2).backward()
        assert torch.equal(module(inputs), before)


def test_running_statistics_are_learned_and_the_module_keeps_its_own():
    inputs, targets = data()
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    bnn = Bayesian(module)
    for _ in range(3):
        bnn.negative_elbo((inputs, targets), examples=32, samples=2)
    bnn.eval()
    bnn.negative_elbo((inputs, targets), examples=32)
    assert int(bnn.state().buffers["1.num_batches_tracked"]) == 3
    assert int(module[1].num_batches_tracked) == 0


def test_an_ordinary_loop_learns_prunes_and_saves(tmp_path):
    inputs, targets = data()
    bnn = Bayesian(net())
    losses = []
    optimiser = torch.optim.Adam(bnn.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        loss = bnn.negative_elbo((inputs, targets), examples=32, heat=0.01)
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
        bnn.negative_elbo((inputs, torch.zeros(32, 3)), examples=32).backward()
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
        return find_tickets(module, (inputs, targets), train=train, prune=prune, seed=1, progress=False)

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


@pytest.mark.parametrize(("rewind", "step"), [("epoch:1", 4), ("step:3", 3), ("init", 0)])
@pytest.mark.parametrize("method", ["vi", "map"])
def test_survivors_restart_where_the_dense_training_was(method: str, rewind: str, step: int):
    inputs, targets = data()
    module, train_settings = net(), TrainSettings(epochs=2, batch_size=8, method=method)
    prune = PruneSettings(levels=2, fraction=0.25, rewind=rewind, score="mu")
    tickets = find_tickets(module, (inputs, targets), train=train_settings, prune=prune, seed=1, progress=False)

    # the oracle: the dense training by itself, stopped there (its noise is named as the finder's)
    dense = initial_state(module, tickets[0].layout, PosteriorSettings(), 1)
    dense = dense if method == "vi" else dense.as_family("point")
    words = (1, "find_tickets", 0)
    there = train(module, dense, TensorBatches(inputs, targets, 8, 1), train_settings, stream=words, stop=step).state
    for ticket in tickets[1:]:
        for name, value in there.masked(ticket.mask).posterior.tensors().items():
            assert torch.equal(ticket.rewind.posterior.tensors()[name], value), name


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
        find_tickets(net(), data(), progress=False, **changes)


def test_a_deterministic_chain_has_no_std():
    tickets = find_tickets(
        net(),
        data(),
        train=TrainSettings(method="map", epochs=2),
        prune=PruneSettings(score="magnitude", levels=1),
        progress=False,
    )
    assert tickets[-1].posterior.std is None
    assert tickets[-1].predict(net(), data()[0]).probs_SBC.shape[0] == 1


def test_predictions_by_batch_statistics_are_those_of_the_ticket():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    inputs = 3 + 2 * torch.randn(40, 4)
    model = Bayesian(module)
    model.negative_elbo((inputs, torch.arange(40) % 3), examples=40).backward()
    by = {
        how: [
            who(inputs, batch_norm=how, batch=20).probs for who in (model.predict, partial(model.ticket().predict, module))
        ]
        for how in ("running", "batch")
    }
    assert all(torch.equal(own, of_ticket) for own, of_ticket in by.values())
    assert not torch.allclose(by["running"][0], by["batch"][0])
