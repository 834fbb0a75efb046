"""VI on a Bayesian linear regression, where the optimum is known in closed form.

For y = X w + N(0, s^2) and the prior N(0, p^2) the posterior precision is A = X'X / s^2 + I / p^2, its mean A^-1 X'y / s^2.
The mean-field Gaussian nearest to it in KL(q || p) has that mean, and 1 / sigma_j^2 = A_jj (Bishop 2006, section 10.1.2).
"""

import math

import pytest
import torch
from torch import Tensor, nn

from tombola import Layout, TrainSettings, train
from tombola.data.batches import TensorBatches
from tombola.posterior.gaussian import Gaussian
from tombola.posterior.state import State
from tombola.streams import generator

D, NOISE, PRIOR = 5, 4.0, 0.3
"""With these the prior and 200 examples have about equal shares in the posterior's precision."""
TASKS = 300
"""Tasks of the same inputs, over which the Monte Carlo error of a precision averages out."""


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def data(examples: int = 200, tasks: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs of several scales with correlations of about 1/2, and a target of a linear model for each task."""
    stream = generator("linear")
    own, shared = (torch.randn(examples, d, generator=stream, dtype=torch.float64) for d in (D, 1))
    x = (own + shared) * torch.linspace(0.6, 1.0, D, dtype=torch.float64)
    w = PRIOR * torch.randn(D, tasks, generator=stream, dtype=torch.float64)
    return x, x @ w + NOISE * torch.randn(examples, tasks, generator=stream, dtype=torch.float64)


def optimum(x: Tensor, y: Tensor, noise_std: float) -> tuple[Tensor, Tensor]:
    """Mean [tasks, D] and precision [D], the same for every task, of the best mean-field Gaussian."""
    a = x.T @ x / noise_std**2 + torch.eye(D, dtype=torch.float64) / PRIOR**2
    return torch.linalg.solve(a, x.T @ y / noise_std**2).T, a.diagonal()


def learned(x: Tensor, y: Tensor, **changes) -> tuple[Tensor, Tensor, State]:
    """Mean and std [tasks, D] of the trained posterior, and the whole of its state."""
    module = nn.Linear(D, y.shape[1], bias=False).double()
    layout = Layout.of(module)
    mean = torch.zeros(layout.numel, dtype=torch.float64)
    start = Gaussian(layout, mean, torch.full_like(mean, math.log(0.1)), torch.ones_like(mean, dtype=torch.bool))
    settings = TrainSettings(
        **{
            "epochs": 600,
            "batch_size": len(x),
            "samples": 2,
            "estimator": "antithetic",
            "lr": 0.02,
            "log_std_lr_factor": 1.0,
            "schedule": "cosine",
            "heat": 1.0,
            "prior_std": PRIOR,
            "likelihood": "gaussian",
            "noise_std": NOISE,
            **changes,
        }
    )
    state = train(module, State(start, {}, {}), TensorBatches(x, y, len(x), 0), settings, stream=(0,)).state
    return *(value.view(-1, D) for value in (state.posterior.mean, state.posterior.std)), state


def test_the_data_make_the_problem_hard_enough():
    x, y = data()
    assert torch.corrcoef(x.T).fill_diagonal_(0).max() > 0.5
    mean, precision = optimum(x, y, NOISE)
    for other in (torch.linalg.lstsq(x, y).solution.T, (x.T @ y).T / NOISE**2 / precision):
        assert (mean - other).norm() > 0.2 * mean.norm()  # neither without the prior nor without the correlations
    assert precision.max() / precision.min() > 1.3
    assert 0.3 < 1 / PRIOR**2 / precision.mean() < 0.7


def check(found_mean: Tensor, found_std: Tensor, mean: Tensor, precision: Tensor) -> None:
    assert (found_mean - mean).norm() < 0.02 * mean.norm()
    assert (found_mean - mean).abs().max() < 0.02 * mean.abs().mean()
    torch.testing.assert_close(found_std.pow(-2).mean(0), precision, rtol=0.02, atol=0)


def test_training_reaches_the_mean_field_optimum():
    mean, std, _ = learned(*data(tasks=TASKS))
    check(mean, std, *optimum(*data(tasks=TASKS), NOISE))


@pytest.mark.thinned(3)
@pytest.mark.parametrize("estimator", ["weight_sample", "local", "flipout"])
def test_every_estimator_reaches_it(estimator: str):
    # a linear model uses each weight once: local reparameterisation does not change its objective
    x, y = data(60, 700)
    mean, std, _ = learned(x, y, estimator=estimator, epochs=300, samples=2, lr=0.02)
    expected_mean, precision = optimum(x, y, NOISE)
    assert (mean - expected_mean).norm() < 0.05 * expected_mean.norm()
    torch.testing.assert_close(std.square().mean(0), 1 / precision, rtol=0.01, atol=0)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("estimator", ["weight_sample", "antithetic"])
def test_ivon_reaches_it(estimator: str):
    x, y = data(60, 300)
    changes = {"method": "ivon", "estimator": estimator, "ivon_lr": 0.3, "beta2": 0.99, "samples": 4}
    mean, std, _ = learned(x, y, epochs=600, **changes)
    expected_mean, precision = optimum(x, y, NOISE)
    assert (mean - expected_mean).norm() < 0.05 * expected_mean.norm()
    torch.testing.assert_close(std.pow(-2).mean(0), precision, rtol=0.02, atol=0)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("noise_refresh", [0.0625, 1.0])
def test_noise_that_is_used_again_leads_to_the_same_optimum(noise_refresh: float):
    # 17,500 weights: so many that little of their noise is new in each sample. Averaged over the tasks, the Monte Carlo
    # error of the variances is below 0.2%, and a bias would show
    x, y = data(60, 3500)
    changes = {"estimator": "weight_sample", "noise_refresh": noise_refresh}
    mean, std, _ = learned(x, y, epochs=300, samples=2, lr=0.02, **changes)
    expected_mean, precision = optimum(x, y, NOISE)
    assert (mean - expected_mean).norm() < 0.05 * expected_mean.norm()
    assert (mean - expected_mean).mean(0).abs().max() < 0.02 * expected_mean.abs().mean()
    torch.testing.assert_close(std.square().mean(0), 1 / precision, rtol=0.01, atol=0)


def noise_at_the_maximum(x: Tensor, y: Tensor) -> float:
    """The ELBO's best noise: noise^2 = E_q mean squared residual, with q the optimum for that noise."""
    noise_std = 1.0
    for _ in range(200):
        mean, precision = optimum(x, y, noise_std)
        squares = (y - x @ mean.T).square().sum() + y.shape[1] * ((x * x).sum(0) / precision).sum()
        noise_std = math.sqrt(squares.item() / y.numel())
    return noise_std


def test_a_learned_noise_is_the_elbos_maximum():
    x, y = data(tasks=TASKS)
    _, _, state = learned(x, y, learn_noise=True, noise_std=1.0)
    assert state.likelihood["log_noise"].exp().item() == pytest.approx(noise_at_the_maximum(x, y), rel=0.03)


@pytest.mark.slow
def test_the_posterior_beside_a_learned_noise_is_the_optimum_for_it():
    # Adam remembers the steep start, where the noise is far too small, for a thousand steps
    x, y = data()
    many = {"estimator": "weight_sample", "epochs": 2000, "samples": 16, "lr": 0.01}
    mean, std, state = learned(x, y, learn_noise=True, noise_std=1.0, **many)
    noise_std = noise_at_the_maximum(x, y)
    assert state.likelihood["log_noise"].exp().item() == pytest.approx(noise_std, rel=0.03)
    check(mean, std, *optimum(x, y, noise_std))
