"""VI of low rank plus diagonal: its KL term by torch.distributions, gradients by autograd, a known posterior."""

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, kl_divergence

from inference.test_methods_linear import ADAM, data, exact, learned
from tombola import Layout, PosteriorSettings, PruneSettings, TombolaError, TrainSettings, find_tickets, streams
from tombola.data.batches import TensorBatches
from tombola.inference import method_of
from tombola.posterior.likelihood import Categorical
from tombola.posterior.low_rank import LowRank, kl_slopes
from tombola.posterior.state import State, initial_state

DOUBLE = {"dtype": torch.float64}


def covariance(q: LowRank) -> Tensor:
    kept = q.random_kept
    return torch.diag((2 * q.log_std).exp() * kept) + q.factor.T @ q.factor


def test_the_slopes_are_those_of_torchs_kl_divergence():
    generator = torch.Generator().manual_seed(0)
    mean, log_std, factor = (torch.randn(size, generator=generator, **DOUBLE) for size in (9, 9, (3, 9)))
    leaves = [value.requires_grad_() for value in (mean, log_std, factor)]
    prior = MultivariateNormal(torch.zeros(9, **DOUBLE), 0.49 * torch.eye(9, **DOUBLE))
    kl = kl_divergence(LowRankMultivariateNormal(mean, factor.T, (2 * log_std).exp()), prior)
    found = kl_slopes(mean.detach(), log_std.detach().exp(), factor.detach(), 0.7)
    torch.testing.assert_close(found, torch.autograd.grad(kl, leaves), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("samples", [1, 3])
def test_a_steps_gradients_are_those_of_its_loss(samples: int):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).double()
    settings = TrainSettings(method="vi_low_rank", rank=2, samples=samples, heat=0.3, prior_std=0.8)
    layout = Layout.of(module)
    start = initial_state(module, layout, PosteriorSettings(std=0.2), 0)
    mask = ~layout.prunable | (torch.arange(layout.numel) % 3 > 0)
    learner = method_of("vi_low_rank")(module, start.masked(mask).as_family("low_rank"), Categorical(), settings, 50, ("t",))
    inputs = torch.randn(7, 4, **DOUBLE)
    (batch,) = TensorBatches(inputs, torch.arange(7) % 3, 7, 0).epoch(0, 0)
    with learner.binding:
        q = learner.state().posterior
        learner.gradients(batch, 5)
    kept, leaves = q.random_kept, [value.clone().requires_grad_() for value in q.tensors().values()]
    mean, log_std, factor = leaves
    loss, n = torch.zeros((), **DOUBLE), layout.random_numel
    for s in range(samples):
        noise = torch.randn(n + 2, generator=streams.generator("noise", "t", 5 * samples + s), **DOUBLE)
        eps, z = noise.split([n, 2])
        padded = nn.functional.pad(eps, (0, layout.numel - n))
        theta = mean + log_std.exp() * kept * padded + z @ factor
        output = torch.func.functional_call(module, layout.views(theta), batch[0])
        loss = loss + nn.functional.cross_entropy(output, batch[1]) / samples
    there = LowRankMultivariateNormal(mean[kept], factor[:, kept].T, (2 * log_std[kept]).exp())
    prior = MultivariateNormal(torch.zeros(int(kept.sum()), **DOUBLE), 0.64 * torch.eye(int(kept.sum()), **DOUBLE))
    loss = loss + 0.3 / 50 * kl_divergence(there, prior)
    for name, found, leaf in zip(q.tensors(), learner._grads, torch.autograd.grad(loss, leaves), strict=True):
        expected = leaf.where(mask, 0.0)[..., : found.shape[-1]]
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


def test_it_comes_near_to_the_posterior_of_a_regression_that_no_mean_field_reaches():
    """A covariance of 4 parameters is a diagonal and at most 3 columns."""
    pair = data(correlated=True)
    mean, precision = exact(1.0, *pair)
    q = learned("vi_low_rank", 750, pair, **ADAM, heat=1.0, samples=2, rank=3).posterior
    torch.testing.assert_close(q.mean, mean, rtol=0, atol=0.02)
    found = float(
        kl_divergence(MultivariateNormal(q.mean, covariance(q)), MultivariateNormal(mean, precision_matrix=precision))
    )
    mean_field = 0.5 * float(precision.diagonal().log().sum() - precision.logdet())
    assert found < 0.1 * mean_field  # of nats; noise in the gradients


def test_draws_have_the_covariance_and_what_is_pruned_has_none():
    q = learned("vi_low_rank", 25, data(), torch.tensor([True, False, True, True]), rank=2).posterior
    draws = torch.stack([q.sample(torch.Generator().manual_seed(i)) for i in range(20_000)])
    expected = covariance(q)
    spread = expected.diagonal()
    error = ((spread[:, None] * spread + expected.square()) / len(draws)).sqrt()
    assert float((((draws - q.mean).T @ (draws - q.mean) / len(draws) - expected).abs() - 5 * error).max()) <= 0
    torch.testing.assert_close(q.std, spread.sqrt())
    for values in (q.mean, q.std, *q.factor, *draws):
        assert not values[1]


def state_of(rank: int) -> State:
    return learned("vi_low_rank", 25, data(), rank=rank)


def test_another_rank_is_refused_and_has_no_line():
    module = nn.Linear(3, 1).double()
    with pytest.raises(TombolaError, match=r"train\.rank is 4, the state has a factor of rank 2"):
        method_of("vi_low_rank")(module, state_of(2), Categorical(), TrainSettings(method="vi_low_rank"), 9, ())
    with pytest.raises(TombolaError, match="no line between ranks 2 and 3"):
        state_of(2).posterior.between(state_of(3).posterior, 0.5)


@pytest.mark.parametrize("changes", [{"estimator": "flipout"}, {"objective": "log_expected"}, {"cuda_graphs": True}])
def test_what_it_cannot_have_is_refused_before_training(changes: dict):
    inputs, targets = torch.randn(20, 4), torch.arange(20) % 2
    settings = TrainSettings(method="vi_low_rank", **changes)
    with pytest.raises(TombolaError, match="which method vi_low_rank cannot have; leave it out"):
        find_tickets(nn.Linear(4, 2), (inputs, targets), train=settings, prune=PruneSettings(levels=1), progress=False)
    with pytest.raises(TombolaError, match="prior of method vi_low_rank is about zero"):
        find_tickets(
            nn.Linear(4, 2),
            (inputs, targets),
            posterior=PosteriorSettings(prior_mean="start"),
            train=TrainSettings(method="vi_low_rank"),
            progress=False,
        )
