"""The shared weight sample: theta = mean + std * noise in one flat buffer, and its analytic gradients.

Legend: P parameters of the layout, of which the first n are random.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .layout import Layout
from .noise import NoisePool

_BLOCK = 1 << 17  # parameters at a time: a block of each tensor in use stays in the second-level cache
_LOG2_E = math.log2(math.e)


class WeightSample:
    """Buffers and arithmetic of VI by weight samples for given `mean` and `log_std` [P], which are read in place.

    One step is: for each sample `draw`, a backward pass into `grad`, `accumulate`; then `finish`. Afterwards `mean_grad` and
    `log_std_grad` hold the gradients of the loss. Everything goes block by block, so that ten passes over memory become
    about three.
    """

    def __init__(self, layout: Layout, mean: Tensor, log_std: Tensor, mask: Tensor, noise: NoisePool):
        self.n = layout.random_numel
        self.mean, self.log_std, self.noise = mean, log_std, noise
        self.theta = mean.clone()
        self.grad = torch.zeros_like(mean)
        self.mean_grad = self.grad  # with one sample they are the same buffer
        self.log_std_grad = torch.zeros_like(mean)
        self._std = torch.zeros_like(mean[: self.n])
        self._keep = None if bool(mask.all()) else mask.to(mean.dtype)

    def draw(self, tick: int, first: bool) -> None:
        """Writes a weight sample into `theta`; `first` of its step, when mean and log_std are new."""
        self._eps = self.noise.window(tick)
        for mean, log_std, std, theta, eps, keep in self._blocks(
            self.mean, self.log_std, self._std, self.theta, self._eps, self._keep
        ):
            if first:
                # exp2 of a multiple: torch's exp goes through a library that is 3 times slower on some CPUs
                torch.mul(log_std, _LOG2_E, out=std)
                torch.exp2(std, out=std)
                if keep is not None:
                    std.mul_(keep)
                    mean.mul_(keep)  # whatever an optimiser's momentum left there
            torch.addcmul(mean, std, eps, out=theta)
        if first:
            rest = slice(self.n, None)
            if self._keep is not None:
                self.mean[rest].mul_(self._keep[rest])
            self.theta[rest].copy_(self.mean[rest])

    def accumulate(self, first: bool) -> None:
        """Adds this sample's gradient, which is in `grad`."""
        if first and self.mean_grad is not self.grad:
            self.mean_grad.copy_(self.grad)
        elif not first:
            if self.mean_grad is self.grad:
                raise RuntimeError("several samples a step need a second gradient buffer: call `reserve_sum` before")
            self.mean_grad.add_(self.grad)
        for out, grad, eps in self._blocks(self.log_std_grad, self.grad, self._eps):
            if first:
                torch.mul(grad, eps, out=out)
            else:
                out.addcmul_(grad, eps)

    def reserve_sum(self) -> None:
        """Makes room for the sum over several samples."""
        if self.mean_grad is self.grad:
            self.mean_grad = torch.zeros_like(self.grad)

    def finish(self, kl_weight: float, prior_std: float) -> None:
        """Turns the accumulated sums into the gradients of loss + kl_weight * KL(q || N(0, prior_std^2)).

        d KL / d mean = mean / s^2 and d KL / d log_std = std^2 / s^2 - 1; the data's part of log_std is grad * eps * std.
        """
        scaled = kl_weight / prior_std**2
        for mean, std, mean_grad, log_std_grad, keep in self._blocks(
            self.mean, self._std, self.mean_grad, self.log_std_grad, self._keep
        ):
            log_std_grad.add_(std, alpha=scaled).mul_(std)  # std is 0 where masked, and so is this
            if keep is None:
                log_std_grad.sub_(kl_weight)
            else:
                log_std_grad.sub_(keep, alpha=kl_weight)
                mean_grad.mul_(keep)
            mean_grad.add_(mean, alpha=scaled)
        if self._keep is not None:
            self.mean_grad[self.n :].mul_(self._keep[self.n :])

    def _blocks(self, *tensors: Tensor | None) -> Iterator[tuple]:
        for start in range(0, self.n, _BLOCK):
            stop = min(start + _BLOCK, self.n)
            yield tuple(None if t is None else t[start:stop] for t in tensors)
