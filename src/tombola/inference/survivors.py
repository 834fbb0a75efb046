"""Weight samples of the survivors alone, written to their places among all parameters: no work for pruned weights.

Legend: P parameters of the layout, K survivors, of which the first k are random.
"""

from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from tombola.posterior.layout import Layout

from .estimators.noise import NoisePool
from .estimators.sample import WeightSample

DENSEST = 0.7
"""The density above which gathering gradients and scattering samples cost more than they save."""


class SurvivorSample:
    """A weight sample [K] of the same estimator as `shown`, a sample [P] whose `theta` a binding has.

    Its steps are those of a `WeightSample`, with draws for [k] only, so not the draws of a dense sample. Gradients [K] are
    in `inner`.
    """

    def __init__(self, shown: WeightSample, layout: Layout, mask: Tensor, several: bool, prior_mean: Tensor | None):
        self._shown, self._index = shown, mask.nonzero().flatten()
        self.layout = survivors_of(layout, mask)
        mean, log_std = shown.mean[self._index], shown.log_std[self._index]
        noise = NoisePool(self.layout.random_numel, shown.noise.stream, shown.noise.refresh, like=mean)
        prior = None if prior_mean is None else prior_mean[self._index]
        all_kept = torch.ones(len(mean), dtype=torch.bool)
        self.inner = type(shown)(self.layout, mean, log_std, all_kept, noise, several, prior)
        self.theta, self.grad = shown.theta, shown.grad
        self.theta.mul_(mask)  # once: `draw` never writes the pruned entries
        shown.mean.mul_(mask)

    def draw(self, tick: int, first: bool) -> None:
        self.inner.draw(tick, first)
        self.theta.index_copy_(0, self._index, self.inner.theta)

    def forward(self) -> AbstractContextManager:
        return self.inner.forward()

    def accumulate(self, first: bool) -> None:
        self._gather()
        self.inner.accumulate(first)

    def finish(self, first: bool, kl_weight: float | Tensor, prior_std: float) -> None:
        self._gather()
        self.inner.finish(first, kl_weight, prior_std)

    def publish(self) -> None:
        """Write the survivors' mean and log_std to their places in `shown`."""
        self._shown.mean.index_copy_(0, self._index, self.inner.mean)
        self._shown.log_std.index_copy_(0, self._index, self.inner.log_std)

    def reload(self) -> None:
        """Continue from the mean and log_std of `shown`."""
        torch.index_select(self._shown.mean, 0, self._index, out=self.inner.mean)
        torch.index_select(self._shown.log_std, 0, self._index, out=self.inner.log_std)

    def _gather(self) -> None:
        torch.index_select(self.grad, 0, self._index, out=self.inner.grad)


def survivors_of(layout: Layout, mask: Tensor) -> Layout:
    """Return the layout of the survivors [K]: the same segments in the same order, each flat and of what the mask keeps."""
    segments, start = [], 0
    for segment in layout.segments:
        kept = int(mask[segment.slice].sum())
        segments.append(replace(segment, shape=(kept,), start=start))
        start += kept
    return Layout(tuple(segments))
