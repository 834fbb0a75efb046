"""Each method on Bayesian linear regression, whose posterior is known: exact, or biased as a formula says."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tombola import Layout, PosteriorSettings, TrainSettings
from tombola.data.batches import LoaderBatches
from tombola.inference import method_of
from tombola.posterior.state import State, initial_state
from tombola.training.loop import train

N, NOISE, PRIOR = 48, 0.5, 0.7


def data(correlated: bool = False) -> tuple[Tensor, Tensor]:
    """Inputs [N, 3] whose columns and the constant are orthogonal and of one length, unless correlated."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.cat([torch.ones(N, 1), torch.randn(N, 3, generator=generator)], 1).double()
    inputs = (torch.linalg.qr(columns)[0] * math.sqrt(N))[:, 1:]
    if correlated:
        inputs = inputs @ torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 1.5]]).double()
    noise = torch.randn(N, generator=generator).double()
    return inputs, inputs @ torch.tensor([0.8, -0.5, 0.2]).double() + 0.3 + NOISE * noise


def exact(heat: float, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and precision of the posterior of (weight, bias)."""
    design = torch.cat([inputs, torch.ones(N, 1)], 1)
    precision = design.T @ design / (heat * NOISE**2) + torch.eye(4) / PRIOR**2
    return torch.linalg.solve(precision, design.T @ targets / (heat * NOISE**2)), precision


def learned(method: str, steps: int, pair: tuple[Tensor, Tensor], mask: Tensor | None = None, **changes: object) -> State:
    """Train for that many steps, a multiple of 25, each on all of the data."""
    module = nn.Linear(3, 1).double()
    known = {"likelihood": "gaussian", "noise_std": NOISE, "prior_std": PRIOR, "batch_size": N}
    settings = TrainSettings(**({"method": method, "epochs": steps // 25} | known | changes))
    posterior = method_of(method).start(PosteriorSettings(), replace(settings, epochs=steps), N)
    state = initial_state(module, Layout.of(module), posterior, 0).as_family(method_of(method).learns)
    inputs, targets = pair
    batches = LoaderBatches([(inputs, targets[:, None])] * 25, examples=N)
    return train(module, state if mask is None else state.masked(mask), batches, settings, stream=("t",)).state


ADAM = {"lr": 0.05, "schedule": "cosine"}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("heat", [1.0, 0.3])
def test_full_laplace_is_the_posterior(heat: float):
    pair = data(correlated=True)
    mean, precision = exact(heat, *pair)
    q = learned("laplace_full", 750, pair, heat=heat, **ADAM).posterior
    torch.testing.assert_close(q.mean, mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(q.root @ q.root.T, precision.inverse(), atol=1e-9, rtol=1e-5)
    draws = torch.stack([q.sample(torch.Generator().manual_seed(i)) for i in range(4000)])
    torch.testing.assert_close(draws.T.cov(), precision.inverse(), atol=0.05 * float(precision.inverse().max()), rtol=0)


def test_under_a_mask_full_laplace_is_the_posterior_of_the_survivors():
    inputs, targets = data(correlated=True)
    mask = torch.tensor([True, False, True, True])
    _, precision = exact(1.0, inputs, targets)
    q = learned("laplace_full", 25, (inputs, targets), mask, heat=1.0).posterior
    survivors = (q.root @ q.root.T)[mask][:, mask]
    torch.testing.assert_close(survivors, precision[mask][:, mask].inverse(), atol=1e-9, rtol=1e-5)
    assert not q.std[1]
    assert not q.sample(torch.Generator())[1]


def test_diagonal_laplace_is_the_mode_and_the_precisions_diagonal():
    pair = data(correlated=True)
    mean, precision = exact(0.5, *pair)
    q = learned("laplace", 750, pair, heat=0.5, **ADAM).posterior
    torch.testing.assert_close(q.mean, mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(q.std, precision.diagonal() ** -0.5, atol=0, rtol=1e-5)
    assert bool((q.std <= precision.inverse().diagonal().sqrt() + 1e-9).all())  # its bias: correlations are left out


@pytest.mark.thinned(2)
@pytest.mark.parametrize(("method", "momentum"), [("sgld", 0.0), ("sghmc", 0.8)])
def test_samplers_have_the_stationary_distribution_of_their_steps(method: str, momentum: float):
    """Of an eigenvalue L of the precision and h = lr heat / N the variance is 1 / (L (1 - h L / (2 (1 + momentum)))).

    The recursion of w is autoregressive of second order: w' = (1 + m - h L) w - m w'' + sqrt(2 (1 - m) h) noise.
    """
    pair, heat = data(), 0.7
    mean, precision = exact(heat, *pair)
    largest = float(precision.diagonal()[0])
    h = 0.8 / largest
    q = learned(method, 2500, pair, heat=heat, momentum=momentum, lr=h * N / heat, keep=2000, burn_in=0.2).posterior
    assert len(q.kept) == 2000
    torch.testing.assert_close(q.position, q.kept[-1])
    variance = 1 / (largest * (1 - h * largest / (2 * (1 + momentum))))
    found = (q.kept - mean).square().mean()  # the four directions have equal variance
    assert abs(float(found) / variance - 1) < 0.1  # standard error near 0.02
    assert float((q.mean - mean).abs().max()) < 5 * math.sqrt(variance / 500)
    assert float((q.kept.T.cov() / variance - torch.eye(4)).abs().max()) < 0.2


def test_swag_has_the_mean_and_half_the_covariance_of_the_points_on_the_way():
    pair = data(correlated=True)
    mean, _ = exact(1.0, *pair)
    q = learned("swag", 400, pair, heat=1.0, keep=30, optimiser="sgd", momentum=0.0, lr=0.2).posterior
    torch.testing.assert_close(q.mean, mean, atol=1e-3, rtol=0)
    drawn = torch.randn(30, 4, generator=torch.Generator().manual_seed(1)).double()
    q = replace(q, kept=mean + drawn * torch.tensor([1.0, 2.0, 3.0, 4.0]).double())
    covariance = 0.5 * torch.diag(q.kept.var(0, correction=0)) + 0.5 * q.kept.T.cov()
    torch.testing.assert_close(q.std, covariance.diagonal().sqrt())
    draws = torch.stack([q.sample(torch.Generator().manual_seed(i)) for i in range(6000)])
    scale = covariance.diagonal().sqrt()
    assert float(((draws.T.cov() - covariance) / scale / scale[:, None]).abs().max()) < 0.1  # standard error near 0.02


def test_an_ensembles_members_all_end_at_the_mode_of_a_convex_problem():
    """Its bias: without the data's noise in them, members differ only where the loss has several minima."""
    pair = data(correlated=True)
    mean, _ = exact(1.0, *pair)
    q = learned("ensemble", 750, pair, heat=1.0, keep=3, **ADAM).posterior
    torch.testing.assert_close(q.kept, mean.expand(3, -1), atol=1e-4, rtol=0)


def test_dropout_is_at_the_minimum_of_its_expected_loss():
    """Inputs dropped at rate r add r / (1 - r) sum x_i^2 m_i^2 to the squared error; the prior's is divided by 1 - r."""
    rate, (inputs, targets) = 0.2, data()
    state = learned("mc_dropout", 2000, (inputs, targets), heat=1.0, dropout=rate, **ADAM)
    square = N / NOISE**2
    wanted = (inputs.T @ targets / NOISE**2) / (square * (1 + rate / (1 - rate)) + 1 / (PRIOR**2 * (1 - rate)))
    torch.testing.assert_close(state.posterior.mean[:3], wanted, atol=0.03, rtol=0)
    torch.testing.assert_close(state.posterior.std[:3], state.posterior.mean[:3].abs() * 0.5, atol=0, rtol=1e-6)
    assert state.posterior.std[3] == 0
