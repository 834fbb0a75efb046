"""Hamiltonian Monte Carlo in float64: the oracle of methods on networks of some tens of weights."""

from collections.abc import Callable

import torch
from torch import Tensor


def hmc(
    log_density: Callable[[Tensor], Tensor], start: Tensor, *, step: float, leapfrogs: int, samples: int, burn_in: int
) -> tuple[Tensor, float]:
    """Return samples [chains * samples, P] and the share of proposals that was accepted.

    log_density: of each of the chains' parameters [chains, P] -> [chains]. start: [chains, P]. Each trajectory has a step
    between half of `step` and the whole.
    """
    generator = torch.Generator().manual_seed(0)
    like = {"generator": generator, "dtype": torch.float64}

    def slope(w: Tensor) -> tuple[Tensor, Tensor]:
        w = w.detach().requires_grad_()
        value = log_density(w)
        return value.detach(), torch.autograd.grad(value.sum(), w)[0]

    w = start.double()
    value, grad = slope(w)
    kept, accepted = [], 0.0
    for i in range(burn_in + samples):
        size = step * (0.5 + 0.5 * torch.rand(len(w), 1, **like))
        p = torch.randn(w.shape, **like)
        before = value - 0.5 * p.square().sum(1)
        there, there_value, there_grad = w, value, grad
        for _ in range(leapfrogs):
            p = p + 0.5 * size * there_grad
            there = there + size * p
            there_value, there_grad = slope(there)
            p = p + 0.5 * size * there_grad
        taken = (there_value - 0.5 * p.square().sum(1) - before).exp() > torch.rand(len(w), **like)
        w, grad = torch.where(taken[:, None], there, w), torch.where(taken[:, None], there_grad, grad)
        value = torch.where(taken, there_value, value)
        if i >= burn_in:
            kept.append(w)
            accepted += taken.double().mean().item() / samples
    return torch.cat(kept), accepted
