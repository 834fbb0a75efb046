"""Checks of the steps to be timed: gradients against autograd's, and losses that decrease."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tombola.inference import VI
from tombola.posterior.layout import Layout
from tombola.posterior.likelihood import Categorical
from tombola.posterior.state import State, initial_state
from tombola.settings import PosteriorSettings, TrainSettings
from tombola.training.optim import optimiser_of, set_lr

_EXAMPLES = 50_000
_STEPS = 16


def assert_gradients(module: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """Assert that gradients equal autograd's and a whole step Adam's first with them.

    By weight samples and by local reparameterisation, in float64 and with the same noise.
    """
    batch = batch[0].double(), batch[1]
    _assert_equal(module.double(), batch, _by_weight_sample, TrainSettings())
    _assert_equal(module.double(), batch, _by_local_noise, TrainSettings(estimator="local"))


def assert_learns(label: str, step: Callable[[], Tensor]) -> None:
    """Assert that a few steps on one batch lower the loss: the mean of the last three is below that of the first three."""
    torch.manual_seed(0)  # the peers draw from torch's global randomness
    losses = [float(step()) for _ in range(_STEPS)]
    assert sum(losses[-3:]) < sum(losses[:3]), f"{label}: the loss does not decrease: {losses}"


def _assert_equal(
    module: nn.Module, batch: tuple[Tensor, Tensor], outputs: Callable[..., Tensor], settings: TrainSettings
) -> None:
    """Assert that gradients equal autograd's through plain reparameterisation with the same noise."""
    state = initial_state(module, Layout.of(module), PosteriorSettings(), 0).to(batch[0].device)
    learner = VI(module, state, Categorical(), settings, _EXAMPLES, ("benchmark",))
    with learner.binding:
        module.train()
        learner.gradients(batch, 0)
    mean, log_std = learner.mean.clone().requires_grad_(), learner.log_std.clone().requires_grad_()
    kept = learner.layout.is_random.to(mean.device)
    loss = F.cross_entropy(outputs(learner, module, batch[0], mean, log_std.exp() * kept), batch[1])
    kl = ((mean**2 + log_std.exp() ** 2) / (2 * settings.prior_std**2) - 0.5 - log_std)[kept].sum()
    expected = torch.autograd.grad(loss + settings.heat / _EXAMPLES * kl, (mean, log_std))
    for made, by_autograd in zip((learner.sample.mean_grad, learner.sample.log_std_grad), expected, strict=True):
        torch.testing.assert_close(made, by_autograd, rtol=1e-4, atol=1e-6)
    _assert_step(module, state, batch, settings, expected)


def _assert_step(
    module: nn.Module, state: State, batch: tuple[Tensor, Tensor], settings: TrainSettings, gradients: tuple[Tensor, ...]
) -> None:
    """Assert that a step is Adam's first, lr g / (|g| + eps); log_std has a rate of its own."""
    likelihood = Categorical()
    learner = VI(module, state, likelihood, settings, _EXAMPLES, ("benchmark",))
    before = learner.mean.clone(), learner.log_std.clone()
    optimiser = optimiser_of(learner, likelihood, settings)
    set_lr(optimiser, settings.lr)
    with learner.binding:
        module.train()
        learner.gradients(batch, 0)
        optimiser.step()
    rates = settings.lr, settings.lr * settings.log_std_lr_factor
    for now, then, gradient, lr in zip((learner.mean, learner.log_std), before, gradients, rates, strict=True):
        torch.testing.assert_close(now, then - lr * gradient / (gradient.abs() + 1e-8), rtol=1e-6, atol=1e-3 * lr)


def _by_weight_sample(learner: VI, module: nn.Module, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    eps = torch.zeros_like(mean)
    eps[: learner.layout.random_numel] = learner.sample.noise.window(0)
    return functional_call(module, learner.layout.views(mean + std * eps), (x,))


def _by_local_noise(learner: VI, module: nn.Module, x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    means, stds = learner.layout.views(mean), learner.layout.views(std)
    spread = {id(means[name]): stds[name] for name in means}
    noise = learner.sample._outputs
    noise.begin(0)

    class Local(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func not in (F.linear, F.conv2d):
                return func(*args, **kwargs)
            x, w, b, *rest = args
            out = func(x, w, b, *rest, **kwargs)
            var = func(x * x, spread[id(w)] ** 2, None if b is None else spread[id(b)] ** 2, *rest, **kwargs)
            eps = torch.cat([part.clone() for _, part in noise.blocks(out.numel())]).view_as(out)
            return out + (var + 1e-300).sqrt() * eps  # so that the root has a derivative where x is 0

    with Local():
        return functional_call(module, means, (x,))
