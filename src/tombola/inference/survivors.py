"""No work for pruned weights: a weight sample of the survivors alone, shown at their places among all parameters.

Legend: P parameters of the layout, K survivors, of which the first k are random.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola.posterior.layout import Layout

from .estimators.noise import NoisePool
from .estimators.sample import WeightSample

DENSEST = 0.7
"""Above this density the gathering and scattering cost more than the work that is saved."""


@dataclass(frozen=True)
class _Counts:
    """What a weight sample needs of a layout."""

    random_numel: int
    """k."""


class SurvivorSample:
    """A weight sample [K] of the same estimator as `shown`, a sample [P] whose `theta` a binding has.

    Its steps are those of a `WeightSample`. It has draws for [k] only: others than a dense sample has.
    """

    def __init__(self, shown: WeightSample, layout: Layout, mask: Tensor, several: bool, prior_mean: Tensor | None):
        """As `WeightSample`."""
        self._shown, self._index = shown, mask.nonzero().flatten()
        before = torch.cat([torch.zeros(1, dtype=torch.long), mask.cpu().long().cumsum(0)]).tolist()
        self.runs = [(slice(before[w.start], before[w.stop]), decayed) for w, decayed in layout.decay_groups()]
        """`Layout.decay_groups` among the survivors."""
        counts = _Counts(before[layout.random_numel])
        mean, log_std = shown.mean[self._index], shown.log_std[self._index]
        noise = NoisePool(counts.random_numel, shown.noise.stream, shown.noise.refresh, like=mean)
        prior = None if prior_mean is None else prior_mean[self._index]
        all_kept = torch.ones(len(mean), dtype=torch.bool)
        self.inner = type(shown)(counts, mean, log_std, all_kept, noise, several, prior)
        self.theta, self.grad = shown.theta, shown.grad
        self.theta.mul_(mask)  # what is pruned is never written again
        shown.mean.mul_(mask)

    def draw(self, tick: int, first: bool) -> None:
        """As `WeightSample.draw`."""
        self.inner.draw(tick, first)
        self.theta.index_copy_(0, self._index, self.inner.theta)

    def forward(self) -> AbstractContextManager:
        """As `WeightSample.forward`."""
        return self.inner.forward()

    def accumulate(self, first: bool) -> None:
        """As `WeightSample.accumulate`."""
        self._gather()
        self.inner.accumulate(first)

    def finish(self, first: bool, kl_weight: float, prior_std: float) -> None:
        """As `WeightSample.finish`; the gradients are those of the survivors."""
        self._gather()
        self.inner.finish(first, kl_weight, prior_std)

    def publish(self) -> None:
        """Writes the survivors' mean and log_std into those of `shown`."""
        self._shown.mean.index_copy_(0, self._index, self.inner.mean)
        self._shown.log_std.index_copy_(0, self._index, self.inner.log_std)

    def reload(self) -> None:
        """Goes on from the mean and log_std of `shown`."""
        torch.index_select(self._shown.mean, 0, self._index, out=self.inner.mean)
        torch.index_select(self._shown.log_std, 0, self._index, out=self.inner.log_std)

    def _gather(self) -> None:
        torch.index_select(self.grad, 0, self._index, out=self.inner.grad)
