"""Checks of the steps to be timed: gradients against autograd's, and losses that decrease."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from tombola.inference import VI
from tombola.posterior.layout import Layout
from tombola.posterior.likelihood import Categorical
from tombola.posterior.state import initial_state
from tombola.settings import PosteriorSettings, TrainSettings
from tombola.training.optim import optimiser_of, set_lr

_EXAMPLES = 50_000
_STEPS = 16


def assert_gradients(module: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """Assert that gradients by weight samples equal autograd's with the same noise, and a step Adam's first; in float64."""
    module, (x, targets), settings = module.double(), (batch[0].double(), batch[1]), TrainSettings()
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0).to(x.device)
    likelihood = Categorical()
    learner = VI(module, state, likelihood, settings, _EXAMPLES, ("benchmark",))
    mean, log_std = (values.clone().requires_grad_() for values in (learner.mean, learner.log_std))
    optimiser = optimiser_of(learner, likelihood, settings)
    set_lr(optimiser, settings.lr)
    with learner.binding:
        module.train()
        learner.gradients((x, targets), 0)
        found = learner.sample.mean_grad.clone(), learner.sample.log_std_grad.clone()
        optimiser.step()
    eps = torch.zeros_like(mean)
    eps[: learner.layout.random_numel] = learner.sample.noise.window(0)
    kept = learner.layout.is_random.to(mean.device)
    theta = mean + log_std.exp() * kept * eps
    loss = F.cross_entropy(functional_call(module, learner.layout.views(theta), (x,)), targets)
    kl = ((mean**2 + log_std.exp() ** 2) / (2 * settings.prior_std**2) - 0.5 - log_std)[kept].sum()
    expected = torch.autograd.grad(loss + settings.heat / _EXAMPLES * kl, (mean, log_std))
    rates = settings.lr, settings.lr * settings.log_std_lr_factor
    after = learner.mean, learner.log_std
    for made, gradient, now, then, lr in zip(found, expected, after, (mean, log_std), rates, strict=True):
        torch.testing.assert_close(made, gradient, rtol=1e-4, atol=1e-6)
        step = lr * gradient / (gradient.abs() + 1e-8)  # Adam's first, with its default eps
        torch.testing.assert_close(now, then.detach() - step, rtol=1e-6, atol=1e-3 * lr)


def assert_learns(label: str, step: Callable[[], Tensor]) -> None:
    """Assert that a few steps on one batch lower the loss: the mean of the last three is below that of the first three."""
    torch.manual_seed(0)  # the peers draw from torch's global randomness
    losses = [float(step()) for _ in range(_STEPS)]
    assert sum(losses[-3:]) < sum(losses[:3]), f"{label}: the loss does not decrease: {losses}"
