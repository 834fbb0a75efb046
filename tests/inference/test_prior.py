"""A pre-trained start: the prior's mean, std relative to the weights, masks from elsewhere."""

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call
from torch.nn.utils import prune as torch_prune

from tombola import (
    Bayesian,
    Layout,
    PosteriorSettings,
    PruneSettings,
    TombolaError,
    TrainSettings,
    find_tickets,
    from_torch_prune,
    load,
    train,
)
from tombola.data.batches import TensorBatches
from tombola.inference import VI
from tombola.inference.estimators import ESTIMATORS
from tombola.posterior.gaussian import initial_log_std, kl_gaussian
from tombola.posterior.likelihood import Categorical
from tombola.posterior.state import initial_state
from tombola.streams import generator, global_stream
from tombola.training.checkpoint import Checkpoint

STAY = PosteriorSettings(std=0.1, prior_mean="start")


def net() -> nn.Sequential:
    with global_stream("pretrained"):
        return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))


def data(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    stream = generator("pretrained data")
    return torch.randn(32, 4, generator=stream, dtype=dtype), torch.randint(3, (32,), generator=stream)


reals = st.floats(-30, 30)


@given(st.lists(st.tuples(reals, reals, st.floats(-9, 3), st.booleans()), min_size=1, max_size=20), st.floats(0.01, 100))
def test_kl_to_a_prior_with_a_mean_is_that_of_torch_distributions(rows: list[tuple], prior_std: float):
    mean, prior_mean, log_std = (torch.tensor([row[i] for row in rows], dtype=torch.float64) for i in range(3))
    keep = torch.tensor([row[3] for row in rows])
    prior = Normal(prior_mean, torch.full_like(mean, prior_std))
    expected = kl_divergence(Normal(mean, log_std.exp()), prior)[keep].sum()
    torch.testing.assert_close(kl_gaussian(mean, log_std, keep, prior_std, prior_mean), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("density", [1.0, 0.5])
@pytest.mark.parametrize("samples", [1, 2])
def test_gradients_with_a_prior_mean_are_autograds(samples: int, density: float):
    module, (x, y) = net().double(), data(torch.float64)
    layout = Layout.of(module)
    keep = torch.rand(layout.numel, generator=generator("keep")) < density
    state = initial_state(module, layout, STAY, 0)
    state = type(state)(state.posterior.masked(keep), state.buffers, {})
    settings = TrainSettings(samples=samples, heat=0.7, prior_std=0.3, clip_norm=1e9)  # by which all parameters are computed
    learner = VI(module, state, Categorical(), settings, 40, ("t",))
    learner.mean.mul_(1.5)  # away from the prior's mean
    mean, log_std = (v.clone().requires_grad_() for v in (learner.mean, learner.log_std))
    with learner.binding:
        loss = learner.gradients((x, y), step=0)
    where = keep & layout.is_random
    nll = torch.zeros((), dtype=torch.float64)
    for s in range(samples):
        eps = torch.zeros_like(mean)
        eps[: layout.random_numel] = learner.sample.noise.window(s)
        theta = mean * keep + log_std.exp() * where * eps
        nll = nll + F.cross_entropy(functional_call(module, layout.views(theta), x), y) / samples
    prior = Normal(layout.flatten(dict(module.named_parameters()))[where], 0.3)
    kl = kl_divergence(Normal(mean[where], log_std[where].exp()), prior).sum()
    expected = torch.autograd.grad(nll + 0.7 * kl / 40, (mean, log_std))
    torch.testing.assert_close(loss, nll.detach())
    torch.testing.assert_close(learner.sample.mean_grad, expected[0] * keep)
    torch.testing.assert_close(learner.sample.log_std_grad, expected[1] * where)
    assert bool((learner.sample.mean_grad[~keep] == 0).all())


def test_the_gradient_of_kl_is_nothing_where_posterior_and_prior_agree():
    x, y = data()
    grads = []
    for heat in (0.0, 1e3):  # the posterior's mean is the prior's: only log_std feels the KL
        model = Bayesian(net(), posterior=STAY)
        model.negative_elbo((x, y), examples=1, heat=heat).backward()
        grads.append(model.mean.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-3)
    far = Bayesian(net(), posterior=PosteriorSettings(std=0.1))
    far.negative_elbo((x, y), examples=1, heat=1e3).backward()
    assert float((far.mean.grad - grads[0]).abs().max()) > 10


def test_a_hot_kl_draws_the_posterior_to_the_start_or_to_zero():
    x, y = data()
    ends = {}
    for where in ("zero", "start"):
        posterior = PosteriorSettings(std=0.1, prior_mean=where)
        module = net()
        settings = TrainSettings(epochs=80, batch_size=32, lr=0.03, heat=100.0, prior_std=0.05)
        (ticket,) = find_tickets(
            module, (x, y), train=settings, prune=PruneSettings(levels=0), posterior=posterior, progress=False
        )
        random = ticket.layout.is_random
        ends[where] = ticket.posterior.mean[random]
        start = ticket.layout.flatten(dict(module.named_parameters()))[random]
    assert float((ends["start"] - start).norm() / start.norm()) < 0.1
    assert float(ends["zero"].norm() / start.norm()) < 0.1


@pytest.mark.parametrize("rewind", ["init", "epoch:1", "learning_rate"])
def test_the_priors_mean_is_the_first_start_at_every_level(rewind: str, tmp_path: Path):
    module = net()
    tickets = find_tickets(
        module,
        data(),
        train=TrainSettings(epochs=2, batch_size=8, lr=0.01),
        prune=PruneSettings(levels=2, fraction=0.4, rewind=rewind),
        posterior=STAY,
        progress=False,
    )
    own = tickets[0].layout.flatten(dict(module.named_parameters()))
    for i, ticket in enumerate(tickets):
        ticket.save(tmp_path / f"{i}")
        back = load(tmp_path / f"{i}", module)
        for state in (ticket.rewind, ticket.trained, back.rewind, back.trained):
            assert torch.equal(state.posterior.prior_mean, own * ticket.mask)
    model = Bayesian(net(), posterior=STAY)
    model.rewind(back)
    torch.testing.assert_close(model.kl(), model.posterior.kl(1.0))
    assert torch.equal(model.ticket().rewind.posterior.prior_mean, own * back.mask)
    found = model.prune("mu", 0.5)
    assert torch.equal(found.rewind.posterior.prior_mean, own * found.mask)


def test_a_training_with_a_prior_mean_resumes_with_the_same_bits(tmp_path: Path):
    class KilledError(Exception):
        pass

    module = net()
    start = initial_state(module, Layout.of(module), STAY, 0)
    settings = TrainSettings(epochs=2, batch_size=8, lr=0.01, heat=5.0)

    def run(**options) -> dict[str, Tensor]:
        return train(module, start, TensorBatches(*data(), 8, 0), settings, stream=("t",), **options).state.tensors()

    def kill(done: int, total: int) -> None:
        if done == 6:
            raise KilledError

    checkpoint = Checkpoint(tmp_path / "checkpoint", seconds=0)
    with pytest.raises(KilledError):
        run(checkpoint=checkpoint, on_step=kill)
    whole, resumed = run(), run(checkpoint=checkpoint)
    assert "posterior.gaussian.prior_mean" in whole
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_std_relative_to_weights_is_their_share_with_a_floor():
    layout = Layout.of(nn.Sequential(nn.Linear(4, 2), nn.Linear(25, 2)))
    mean = torch.linspace(-1, 1, layout.numel)
    views = layout.views(initial_log_std(layout, mean, 0.05, "weight", 0.0, generator("w")).exp())
    means = layout.views(mean)
    for name, fan_in in (("0.weight", 4), ("1.weight", 25), ("1.bias", 25)):
        floor = 0.1 / fan_in**0.5
        expected = [0.05 * max(abs(w), floor) for w in means[name].flatten().tolist()]
        torch.testing.assert_close(views[name].flatten(), torch.tensor(expected))
    assert bool(initial_log_std(layout, torch.zeros_like(mean), 0.05, "weight", 0.0, generator("w")).isfinite().all())


def test_masks_of_torch_prune_are_taken_over_and_hold():
    module, (x, y) = net(), data()
    torch_prune.global_unstructured(
        [(module[0], "weight"), (module[3], "weight")], pruning_method=torch_prune.L1Unstructured, amount=0.5
    )
    torch_prune.random_unstructured(module[0], "bias", 0.5)
    plain, masks = from_torch_prune(module)
    assert plain.state_dict().keys() == net().state_dict().keys()
    torch.testing.assert_close(plain(x), module(x))
    assert torch_prune.is_pruned(module)  # it is as it was
    assert masks.keys() == {"0.weight", "0.bias", "3.weight"}
    assert torch.equal(masks["0.weight"], module[0].weight_mask.bool())

    shown: list[dict[str, Tensor]] = []
    plain.register_forward_pre_hook(lambda m, _: shown.append({k: p.detach().clone() for k, p in m.named_parameters()}))
    model = Bayesian(plain, mask=masks)
    dense, sparse = find_tickets(
        plain,
        (x, y),
        mask=masks,
        train=TrainSettings(epochs=4, lr=0.01, batch_size=8),
        prune=PruneSettings(levels=1, fraction=0.5),
        progress=False,
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(5):
        optimiser.zero_grad()
        model.negative_elbo((x, y), examples=32).backward()
        optimiser.step()
    assert len(shown) == 2 * (1 + 4 * 4) + 5  # two trainings, each after a trial, and the loop above
    for weights, (name, mask) in itertools.product(shown, masks.items()):
        assert bool((weights[name][~mask] == 0).all())
        assert bool((weights[name][mask] != 0).any())
    assert torch.equal(dense.mask, dense.layout.mask_of(masks))
    assert torch.equal(model.mask, dense.mask)
    assert bool((sparse.mask <= dense.mask).all())
    alive = int((dense.mask & dense.layout.prunable).sum())
    assert int((sparse.mask & dense.layout.prunable).sum()) == alive - round(0.5 * alive)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        ({"0.wight": torch.ones(8, 4)}, "no such parameter; there is 0.weight"),
        ({"0.weight": torch.ones(4, 8)}, "not \\(8, 4\\)"),
    ],
)
def test_masks_that_do_not_fit_are_said(mask: dict[str, Tensor], sentence: str):
    with pytest.raises(TombolaError, match=sentence):
        Bayesian(net(), mask=mask)
    with pytest.raises(TombolaError, match="nothing of Sequential is pruned"):
        from_torch_prune(net())


def test_pruned_weights_feel_nothing_of_their_prior():
    model, (x, y) = Bayesian(net(), posterior=STAY), data()
    pruned = ~model.prune("mu", 0.5).mask
    assert bool((model._prior_mean()[pruned] != 0).any())
    model.negative_elbo((x, y), examples=1, heat=10.0).backward()
    assert bool((model.mean.grad[pruned] == 0).all())
    assert bool((model.log_std.grad[pruned] == 0).all())
    own = model.ticket().trained.posterior
    expected = kl_divergence(
        Normal(own.mean[own.random_kept], own.std[own.random_kept]), Normal(own.prior_mean[own.random_kept], 1.0)
    ).sum()
    torch.testing.assert_close(model.kl().detach(), expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_draws_to_the_priors_mean(estimator: str):
    """The KL's gradient by itself: what heat adds to that of the data, at equal noise."""
    module, batch = net().double(), data(torch.float64)
    layout = Layout.of(module)
    state = initial_state(module, layout, STAY, 0)
    grads = []
    for heat in (0.0, 2.0):
        settings = TrainSettings(heat=heat, prior_std=0.3, samples=2, estimator=estimator)
        learner = VI(module, state, Categorical(), settings, 40, ("t",))
        learner.mean.mul_(1.5)
        with learner.binding:
            learner.gradients(batch, step=0)
        grads.append(learner.sample.mean_grad.clone())
    added = 2.0 / 40 * (1.5 - 1) * state.posterior.mean / 0.3**2 * layout.is_random
    torch.testing.assert_close(grads[1] - grads[0], added, rtol=1e-6, atol=1e-9)
