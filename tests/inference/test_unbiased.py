"""Gradients of every estimator against the exact ones of a linear model with Gaussian noise."""

import math

import pytest
import torch
from torch import Tensor, nn

from support.estimator_parts import Rig, normal, seeded
from tombola import Bayesian, Layout, TombolaError, TrainSettings
from tombola.inference import VI
from tombola.inference.estimators import ESTIMATORS
from tombola.posterior.gaussian import Gaussian
from tombola.posterior.likelihood import GaussianNoise
from tombola.posterior.state import State

NOISY = [name for name in ESTIMATORS if name != "mean"]


D, N, NOISE_STD = 3, 40, 0.7


def draws_of(name: str, tasks: int, steps: int, noise_refresh: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients [steps, tasks, D] of a linear model with Gaussian noise, as many independent tasks at once; the exact ones.

    With residual r = y - X m: E_q loss = (|r|^2 + sum_j (X'X)_jj std_j^2) / (2 N s^2) + const.
    """
    x = normal(N, D, name="inputs")
    y = (x @ torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)).unsqueeze(1)
    module = nn.Linear(D, tasks, bias=False).double()
    layout = Layout.of(module, classifier=True)
    m, std = torch.tensor([0.3, -0.2, 0.5]), torch.tensor([0.2, 0.4, 0.3])
    mean, log_std = (v.double().repeat(tasks) for v in (m, std.log()))
    state = State(Gaussian(layout, mean, log_std, torch.ones(layout.numel, dtype=torch.bool)), {}, {})
    samples = 2 if name == "antithetic" else 1
    settings = TrainSettings(estimator=name, samples=samples, noise_refresh=noise_refresh, heat=0.0)
    likelihood = GaussianNoise(NOISE_STD).double()
    learner = VI(module, state, likelihood, settings, N, ("unbiased",))
    found: dict[str, list[Tensor]] = {"mean": [], "log_std": []}
    with learner.binding:
        for step in range(steps):
            learner.gradients((x, y.expand(N, tasks)), step)
            found["mean"].append(learner.sample.mean_grad.view(tasks, D).clone())
            found["log_std"].append(learner.sample.log_std_grad.view(tasks, D).clone())
    residual = y.squeeze(1) - x @ m.double()
    exact = {
        "mean": -(x.T @ residual) / (N * likelihood.noise_std**2),
        "log_std": std.double() ** 2 * x.square().sum(0) / (N * likelihood.noise_std**2),
    }
    return {kind: torch.stack(grads) for kind, grads in found.items()}, exact


@pytest.mark.parametrize(
    ("tasks", "steps", "noise_refresh"),
    [(100, 100, 1.0), (2000, 60, 0.0625)],  # 80,000 outputs: so many that their noise comes from the pool
)
@pytest.mark.parametrize("name", NOISY)
def test_10_000_draws_average_to_the_exact_gradient(name: str, tasks: int, steps: int, noise_refresh: float):
    found, exact = draws_of(name, tasks, steps, noise_refresh)
    for kind, value in exact.items():
        of_steps = found[kind].mean(1)  # tasks of one step share signs (Flipout): steps are what is independent
        error = (of_steps.mean(0) - value).abs()
        standard_error = of_steps.std(0) / math.sqrt(steps)
        assert (error < 4 * standard_error + 1e-12).all(), (kind, error / standard_error)  # pairs are exact for the mean
        assert (standard_error < 0.02 * value.abs().max()).all()  # the test can tell


def test_the_mean_has_the_means_gradient_and_none_of_std():
    found, exact = draws_of("mean", 1, 1, 1.0)
    torch.testing.assert_close(found["mean"][0, 0], exact["mean"])  # exact, as the model is linear
    assert bool((found["log_std"] == 0).all())


def test_variances_are_ordered_as_the_theory_says():
    # one gradient sees N examples with one noise (weight sample), N noises (local), or noise that cancels (antithetic)
    variance = {name: draws_of(name, 100, 40, 1.0)[0]["mean"].flatten(0, 1).var(0).mean().item() for name in NOISY}
    assert variance["antithetic"] < 1e-20
    assert variance["local"] < 0.3 * variance["weight_sample"]
    assert variance["flipout"] < 0.6 * variance["weight_sample"]


def test_pairs_have_opposite_noise():
    rig = Rig("antithetic", seeded(lambda: nn.Linear(3, 2)), 0.5)
    shown = []
    for tick in range(6):
        rig.est.draw(tick, True)
        shown.append(rig.est.theta - rig.mean)
    for first, second in zip(shown[::2], shown[1::2], strict=True):
        torch.testing.assert_close(first, -second)
    assert not torch.equal(shown[0], shown[2])


def test_pairs_need_an_even_number_of_samples():
    with pytest.raises(TombolaError, match="samples is 3; estimator antithetic draws pairs"):
        TrainSettings(estimator="antithetic", samples=3)
    x, y = torch.randn(4, 3), torch.randint(2, (4,))
    with pytest.raises(TombolaError, match="must be even"):
        Bayesian(nn.Linear(3, 2), estimator="antithetic").negative_elbo((x, y), examples=4)
