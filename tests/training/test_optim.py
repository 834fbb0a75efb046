"""Learning-rate schedules against torch's, and what weight decay acts on."""

import pytest
import torch
from torch import nn

from tombola import Layout, PosteriorSettings, TrainSettings
from tombola.inference import VI
from tombola.posterior.likelihood import Categorical
from tombola.posterior.state import initial_state
from tombola.training.optim import lr_factor, optimiser_of, set_lr

STEPS, PER_EPOCH = 60, 6


def by_torch(make) -> list[float]:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, factors = make(optimiser), []
    for _ in range(STEPS):
        factors.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return factors


def ours(**settings) -> list[float]:
    return [lr_factor(TrainSettings(**settings), step, STEPS, PER_EPOCH) for step in range(STEPS)]


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"schedule": "cosine"}, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS)),
        (
            {"schedule": "one_cycle"},
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=STEPS, cycle_momentum=False),
        ),
        (
            {"schedule": "step", "milestones": [0.5, 0.75], "gamma": 0.1},
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [30, 45], gamma=0.1),
        ),
        ({"schedule": "constant"}, lambda o: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)),
    ],
)
def test_schedules_equal_torchs(settings: dict, make):
    assert ours(**settings) == pytest.approx(by_torch(make), rel=1e-9, abs=1e-12)


def test_warm_up_rises_linearly_and_the_schedule_fills_the_rest():
    factors = ours(schedule="cosine", warmup_epochs=2)
    warm = 2 * PER_EPOCH
    assert factors[:warm] == pytest.approx([(i + 1) / (warm + 1) for i in range(warm)])
    alone = [lr_factor(TrainSettings(schedule="cosine"), i, STEPS - warm, PER_EPOCH) for i in range(STEPS - warm)]
    assert factors[warm:] == pytest.approx(alone)


def test_warm_up_is_torchs_linear_one():
    warm = 3 * PER_EPOCH

    expected = by_torch(lambda o: torch.optim.lr_scheduler.LinearLR(o, 1 / (warm + 1), total_iters=warm))
    assert ours(schedule="constant", warmup_epochs=3) == pytest.approx(expected, rel=1e-9)


def first_step(optimiser: str, weight_decay: float, grad: float = 0.5) -> tuple[VI, torch.Tensor, torch.Tensor]:
    """The learner after one step with all gradients `grad`, and its mean and log_std before."""
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    settings = TrainSettings(
        optimiser=optimiser,
        momentum=0.0,
        lr=0.1,
        weight_decay=weight_decay,
        log_std_lr_factor=3.0,
        clip_norm=1e9,  # so that whole gradients are there to be written; tests/test_fused.py compares the other way
    )
    start = initial_state(module, Layout.of(module), PosteriorSettings(), 0)
    learner = VI(module, start, Categorical(), settings, 10, ("x",))
    chosen = optimiser_of(learner, Categorical(), settings)
    set_lr(chosen, 0.1)
    learner.sample.mean_grad.fill_(grad)
    learner.sample.log_std_grad.fill_(grad)
    chosen.step()
    return learner, start.posterior.mean, start.posterior.log_std


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_weight_decay_acts_on_decayed_means_alone_and_log_std_has_its_own_rate(optimiser: str):
    learner, mean, log_std = first_step(optimiser, weight_decay=0.7)
    decayed = torch.cat([torch.full((s.numel,), len(s.shape) > 1) for s in learner.layout.segments])  # no bias, no norm
    coupled = 0.5 + 0.7 * mean * decayed
    expected = {
        "sgd": mean - 0.1 * coupled,
        "adam": mean - 0.1 * coupled.sign(),  # Adam's first step is the sign of its gradient
        "adamw": mean * (1 - 0.1 * 0.7 * decayed) - 0.1,
    }
    torch.testing.assert_close(learner.mean, expected[optimiser], rtol=1e-5, atol=1e-6)
    n, rate = learner.layout.random_numel, 0.3 * (0.5 if optimiser == "sgd" else 1.0)
    torch.testing.assert_close(learner.log_std[:n], log_std[:n] - rate, rtol=1e-5, atol=1e-6)
    assert torch.equal(learner.log_std[n:], log_std[n:])  # of deterministic parameters it means nothing
