"""Weight samples, shared by a whole batch: theta = mean + std * eps in one flat buffer, and their analytic gradients.

Legend: P parameters of the layout, of which the first n are random.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from tombola.posterior.layout import Layout

from .noise import NoisePool

_BLOCK = 1 << 16  # parameters at a time on a CPU: a block of each tensor in use stays in the second-level cache
_LOG2_E = math.log2(math.e)


class WeightSample:
    """Buffers and arithmetic of VI by weight samples for given `mean` and `log_std` [P], which are read in place.

    One step is: for each sample `draw`, a forward pass within `forward()`, and a backward pass into `grad`; after each but
    the last `accumulate`, after the last `finish`. Then `mean_grad` and `log_std_grad` hold the gradients of the loss.

    With g = d loss / d theta they are those of Blundell et al. 2015 (section 3.2, equations 3 and 4), with log_std in place
    of their softplus: d loss / d mean = g, d loss / d log_std = g * eps * std, plus the derivatives of KL in closed form.
    The work goes block by block: a dozen operations then read and write main memory about as often as three would.
    """

    _eps: Tensor | None
    """The noise of `theta`; None in estimators whose `log_std_grad` gets the derivative by std otherwise."""
    converted: Sequence[slice] = ()
    """The slices of `theta` whose parameters the module has as copies, in another dtype."""

    def __init__(
        self,
        layout: Layout,
        mean: Tensor,
        log_std: Tensor,
        mask: Tensor,
        noise: NoisePool,
        several: bool,
        prior_mean: Tensor | None = None,
    ):
        """Make the buffers.

        several: a step may have more than one sample, so `mean_grad` is a sum and needs its own buffer; otherwise it is
        `grad`. prior_mean: [P]; None is 0.
        """
        self.layout, self.mask, self.n = layout, mask, layout.random_numel
        # on a GPU each kernel launch costs more than a block's work: there everything is one block
        self._block = _BLOCK if mean.device.type == "cpu" else max(1, self.n)
        self.mean, self.log_std, self.noise = mean, log_std, noise
        self.theta = mean.clone()
        self.grad = torch.zeros_like(mean)
        self.mean_grad = torch.zeros_like(mean) if several else self.grad
        self.log_std_grad = torch.zeros_like(mean)
        self.std = torch.zeros_like(mean[: self.n])
        """The effective std that the step's samples were drawn with, [n]: 0 where masked."""
        self._keep = None if bool(mask.all()) else mask.to(mean.dtype)
        self._whole_prior = prior_mean
        self._prior = prior_mean if prior_mean is None or self._keep is None else prior_mean * self._keep

    def change_mask(self, mask: Tensor) -> None:
        """Go on under another mask, [P]."""
        self.mask, self._keep = mask, mask.to(self.mean.dtype)
        self._prior = None if self._whole_prior is None else self._whole_prior * self._keep

    def draw(self, tick: int, first: bool) -> None:
        """Write a weight sample into `theta`; `first` of its step, when mean and log_std are new. tick: names its noise."""
        self._eps = self._noise(tick)
        for mean, log_std, std, theta, eps, keep in self._blocks(
            self.mean, self.log_std, self.std, self.theta, self._eps, self._keep
        ):
            if first:
                _renew(mean, log_std, std, keep)
            torch.addcmul(mean, std, eps, out=theta)
        if first:
            self._copy_rest()

    def _copy_rest(self) -> None:
        """Write the deterministic parameters into `theta`."""
        rest = slice(self.n, None)
        if self._keep is not None:
            self.mean[rest].mul_(self._keep[rest])
        self.theta[rest].copy_(self.mean[rest])

    def _noise(self, tick: int) -> Tensor:
        return self.noise.window(tick)

    def ticks(self, step: int, samples: int) -> list[int]:
        """Return the ticks of the noise that a step of that many samples draws, in order."""
        return list(range(step * samples, (step + 1) * samples))

    def forward(self) -> AbstractContextManager:
        """Return the context of a forward pass: an empty one here, for the sample is in `theta`."""
        return nullcontext()

    def accumulate(self, first: bool) -> None:
        """Add this sample's gradient, which is in `grad`, to the sums; the `first` one of its step begins them."""
        assert self.mean_grad is not self.grad, "made for one sample a step"
        if self._eps is not None:
            for grad, eps, log_std_grad in self._blocks(self.grad, self._eps, self.log_std_grad):
                _add_product(log_std_grad, grad, eps, first)
        if first:
            self.mean_grad.copy_(self.grad)
        else:
            self.mean_grad.add_(self.grad)

    def finish(self, first: bool, kl_weight: float | Tensor, prior_std: float) -> None:
        """Add the last sample's gradient, and that of kl_weight * KL(q || N(prior_mean, prior_std^2)).

        With s = prior_std, d KL / d mean = (mean - prior_mean) / s^2 and d KL / d log_std = std^2 / s^2 - 1. In sum,
        log_std_grad = (sum of g * eps + kl_weight / s^2 * std) * std - kl_weight, in that order of operations.
        kl_weight: a tensor [1] where it changes from step to step of a captured graph.
        """
        scaled, summed = kl_weight / prior_std**2, self.mean_grad is not self.grad
        entropy = torch.ones_like(self.grad[: min(self.n, self._block)]).mul_(-kl_weight)
        for mean, std, grad, eps, mean_grad, log_std_grad, keep, prior in self._blocks(
            self.mean, self.std, self.grad, self._eps, self.mean_grad, self.log_std_grad, self._keep, self._prior
        ):
            if eps is not None:
                _add_product(log_std_grad, grad, eps, first)
            _add_scaled(log_std_grad, std, scaled)
            torch.addcmul(entropy[: len(std)], log_std_grad, std, out=log_std_grad)
            if summed:
                mean_grad.copy_(grad) if first else mean_grad.add_(grad)
            if keep is not None:
                log_std_grad.mul_(keep)
                mean_grad.mul_(keep)
            _add_scaled(mean_grad, mean, scaled)
            if prior is not None:
                _add_scaled(mean_grad, prior, -scaled)
        rest = slice(self.n, None)
        if summed:
            self.mean_grad[rest].copy_(self.grad[rest]) if first else self.mean_grad[rest].add_(self.grad[rest])
        if self._keep is not None:
            self.mean_grad[rest].mul_(self._keep[rest])

    def _blocks(self, *tensors: Tensor | None) -> Iterator[tuple]:
        """Yield the random part of each, block by block, from the back: the optimiser's last block is still in the cache."""
        for start in range((self.n - 1) // self._block * self._block, -1, -self._block):
            stop = min(start + self._block, self.n)
            yield tuple(None if t is None else t[start:stop] for t in tensors)


class Antithetic(WeightSample):
    """Weight samples in pairs, mean + std * eps and mean - std * eps: odd powers of eps cancel in their sum."""

    def _noise(self, tick: int) -> Tensor:
        pair, second = divmod(tick, 2)
        eps = self.noise.window(pair)
        return eps.neg() if second else eps

    def ticks(self, step: int, samples: int) -> list[int]:
        return list(range(step * samples // 2, (step + 1) * samples // 2))


class MeanWeights(WeightSample):
    """The mean itself: no noise, so the data say nothing about std, whose gradient is the KL term's alone."""

    def draw(self, tick: int, first: bool) -> None:
        self._tick, self._eps = tick, None
        if not first:
            return
        for mean, log_std, std, theta, keep in self._blocks(self.mean, self.log_std, self.std, self.theta, self._keep):
            _renew(mean, log_std, std, keep)
            theta.copy_(mean)
        self._copy_rest()
        self.log_std_grad.zero_()  # subclasses sum the derivatives by std in it


def _renew(mean: Tensor, log_std: Tensor, std: Tensor, keep: Tensor | None) -> None:
    """Write the effective std of a step, and 0 into pruned means: an optimiser's momentum moves them."""
    # exp2 of a multiple: torch's exp goes through a library that is 3 times slower on some CPUs
    torch.mul(log_std, _LOG2_E, out=std)
    torch.exp2(std, out=std)
    if keep is not None:
        std.mul_(keep)
        mean.mul_(keep)


def _add_product(total: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    if first:
        torch.mul(a, b, out=total)
    else:
        total.addcmul_(a, b)


def _add_scaled(total: Tensor, value: Tensor, by: float | Tensor) -> None:
    if isinstance(by, Tensor):
        total.addcmul_(value, by)
    else:
        total.add_(value, alpha=by)
