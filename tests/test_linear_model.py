"""VI on a Bayesian linear regression, where the optimum is known in closed form.

For y = X w + N(0, s^2) and the prior N(0, p^2) the posterior precision is A = X'X / s^2 + I / p^2, its mean A^-1 X'y / s^2.
The mean-field Gaussian nearest to it in KL(q || p) has that mean, and 1 / sigma_j^2 = A_jj (Bishop 2006, section 10.1.2).
"""

import math

import pytest
import torch
from torch import Tensor, nn

from tombola import Layout, TrainSettings, train
from tombola.batches import TensorBatches
from tombola.posterior.gaussian import Gaussian
from tombola.posterior.state import State
from tombola.streams import generator

N, D, NOISE, PRIOR = 200, 5, 4.0, 0.3
"""With these the prior and the data have about equal shares in the posterior's precision."""


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def data() -> tuple[Tensor, Tensor]:
    """Inputs of several scales with correlations of about 1/2, and targets of a linear model."""
    stream = generator("linear")
    own, shared = (torch.randn(N, d, generator=stream, dtype=torch.float64) for d in (D, 1))
    x = (own + shared) * torch.linspace(0.6, 1.0, D, dtype=torch.float64)
    w = PRIOR * torch.randn(D, 1, generator=stream, dtype=torch.float64)
    return x, x @ w + NOISE * torch.randn(N, 1, generator=stream, dtype=torch.float64)


def optimum(noise_std: float) -> tuple[Tensor, Tensor]:
    """Mean and precision [D] of the best mean-field Gaussian."""
    x, y = data()
    a = x.T @ x / noise_std**2 + torch.eye(D, dtype=torch.float64) / PRIOR**2
    return torch.linalg.solve(a, x.T @ y / noise_std**2).squeeze(1), a.diagonal()


def learned(epochs: int = 2000, **changes) -> State:
    module = nn.Linear(D, 1, bias=False).double()
    layout = Layout.of(module)
    start = Gaussian(
        layout, torch.zeros(D).double(), torch.full((D,), math.log(0.1)).double(), torch.ones(D, dtype=torch.bool)
    )
    settings = TrainSettings(
        **{
            "epochs": epochs,
            "batch_size": N,
            "samples": 16,
            "lr": 0.01,
            "log_std_lr_factor": 1.0,
            "schedule": "cosine",
            "heat": 1.0,
            "prior_std": PRIOR,
            "likelihood": "gaussian",
            "noise_std": NOISE,
            **changes,
        }
    )
    return train(module, State(start, {}, {}), TensorBatches(*data(), settings.batch_size, 0), settings, words=(0,)).state


def check(q: Gaussian, mean: Tensor, precision: Tensor) -> None:
    assert (q.mean - mean).norm() < 0.02 * mean.norm()
    assert (q.mean - mean).abs().max() < 0.02 * mean.abs().mean()
    torch.testing.assert_close(q.std.pow(-2), precision, rtol=0.02, atol=0)


def test_the_data_make_the_problem_hard_enough():
    x, y = data()
    assert torch.corrcoef(x.T).fill_diagonal_(0).max() > 0.5
    mean, precision = optimum(NOISE)
    for other in (torch.linalg.lstsq(x, y).solution.squeeze(1), (x.T @ y).squeeze(1) / NOISE**2 / precision):
        assert (mean - other).norm() > 0.2 * mean.norm()  # neither without the prior nor without the correlations
    assert precision.max() / precision.min() > 1.3
    assert 0.3 < 1 / PRIOR**2 / precision.mean() < 0.7


@pytest.mark.parametrize("noise_refresh", [TrainSettings().noise_refresh, 1.0])
def test_training_reaches_the_mean_field_optimum(noise_refresh: float):
    check(learned(noise_refresh=noise_refresh).posterior, *optimum(NOISE))


def test_a_learned_noise_is_the_elbos_maximum():
    x, y = data()
    noise_std = 1.0
    for _ in range(200):  # at the maximum: noise^2 = E_q mean squared residual, with q the optimum for that noise
        mean, precision = optimum(noise_std)
        expected_squares = (y.squeeze(1) - x @ mean).square().sum() + ((x * x).sum(0) / precision).sum()
        noise_std = math.sqrt(expected_squares.item() / N)
    state = learned(learn_noise=True, noise_std=1.0)
    assert state.likelihood["log_noise"].exp().item() == pytest.approx(noise_std, rel=0.03)
    check(state.posterior, *optimum(noise_std))
