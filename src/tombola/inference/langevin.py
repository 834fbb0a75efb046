"""Samplers by stochastic gradients: Langevin dynamics, without friction's memory (SGLD) and with it (SGHMC), in cycles.

Legend: N training examples, T the temperature `heat`, U the negative log of p(data | w)^(1 / T) times the prior.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from tombola import streams
from tombola.posterior.batch import Batch
from tombola.settings import TrainSettings

from .keeping import Keeping, is_sampling
from .learner import slice_with_grad
from .penalised import refuse


class SGLD(Keeping):
    """Stochastic-gradient Langevin dynamics (Welling & Teh 2011, equation 4) on the loss per example, U T / N.

    A step is w = w - lr * gradient + sqrt(2 lr T / N) * noise: `lr` is the paper's epsilon N / (2 T), and N / n of the
    minibatch is in the mean. In the burn-in of each cycle there is no noise, as in cyclical SG-MCMC's exploration (Zhang
    et al. 2020, algorithm 1). Its samples have the bias of the step size, for nothing is rejected, and of the minibatches.
    Deterministic parameters descend without noise or prior.
    """

    _momentum: ClassVar[bool] = False

    @classmethod
    def check(cls, settings: TrainSettings) -> None:
        super().check(settings)
        refuse(settings, "clip_norm", "loss_scale", "warmup_epochs")

    def groups(self) -> list[dict]:
        return []  # the update of its own has all

    def optimiser(self, settings: TrainSettings) -> "LangevinUpdate":
        return LangevinUpdate(self, self.settings.momentum if self._momentum else 0.0)

    def gradients(self, batch: Batch, step: int, kl_factor: float | Tensor = 1.0) -> Tensor:
        loss = super().gradients(batch, step, kl_factor)
        self._step = step
        return loss

    def noise(self) -> Tensor | None:
        """Draw the step's standard normal noise of the random parameters, [n]; None in a burn-in."""
        if not is_sampling(self.settings, self._step, self._steps):
            return None
        generator = streams.generator("noise", *self.stream, self._step, device=self.mean.device)
        n = self.layout.random_numel
        return torch.randn(n, generator=generator, dtype=self.mean.dtype, device=self.mean.device)


class SGHMC(SGLD):
    """Stochastic-gradient Hamiltonian Monte Carlo (Chen et al. 2014, equation 15), with friction 1 - `momentum`.

    A step is v = momentum * v - lr * gradient + sqrt(2 (1 - momentum) lr T / N) * noise, w = w + v; the noise of the
    gradient itself is not estimated (the paper's beta is 0).
    """

    _momentum: ClassVar[bool] = True


class LangevinUpdate(torch.optim.Optimizer):
    """Update of all parameters of a sampler; a momentum is in `state`, where checkpoints find it."""

    def __init__(self, sampler: SGLD, momentum: float):
        whole = slice_with_grad(sampler.mean, sampler._grad, slice(0, len(sampler.mean)))
        super().__init__([{"params": [whole], "factor": 1.0}], {"lr": sampler.settings.lr})
        self._sampler, self._momentum = sampler, momentum

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        (group,), sampler, momentum = self.param_groups, self._sampler, self._momentum
        w, lr = group["params"][0], group["lr"]
        move = w.grad.mul(-lr)
        for where, decayed in sampler.layout.decay_groups():
            if decayed and sampler.settings.weight_decay:
                move[where].add_(w[where], alpha=-lr * sampler.settings.weight_decay)
        if (noise := sampler.noise()) is not None:
            scale = math.sqrt(2 * (1 - momentum) * lr * sampler.settings.heat / sampler.examples)
            move[: len(noise)].add_(noise, alpha=scale)
        if momentum:
            velocity = self.state[w].setdefault("momentum", torch.zeros_like(w))
            move = velocity.mul_(momentum).add_(move)
        w.add_(move.mul_(sampler.mask))
