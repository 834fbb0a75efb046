"""No work for pruned weights: a weight sample of the survivors alone, shown at their places among all parameters.

Legend: P parameters of the layout, K survivors, of which the first k are random.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola import streams
from tombola.posterior.layout import Layout

from .estimators.noise import NoisePool
from .estimators.sample import WeightSample
from .held import HeldSample

DENSEST = 0.7
"""Above this density the gathering and scattering cost more than the work that is saved."""


@dataclass(frozen=True)
class Survivors:
    """The places of the survivors of a mask, and what lies there."""

    index: Tensor
    """[K], ascending."""
    random_numel: int
    """k."""
    runs: list[tuple[slice, bool]]
    """`Layout.decay_groups` among the survivors."""

    @classmethod
    def of(cls, layout: Layout, mask: Tensor) -> "Survivors | None":
        """None where they are too many to be worth it, or none at all."""
        if not 0 < mask.double().mean().item() <= DENSEST:
            return None
        before = torch.cat([torch.zeros(1, dtype=torch.long), mask.cpu().long().cumsum(0)]).tolist()
        runs = [(slice(before[w.start], before[w.stop]), decayed) for w, decayed in layout.decay_groups()]
        return cls(mask.nonzero().flatten(), before[layout.random_numel], runs)

    def noise(self, words: tuple[streams.Word, ...], refresh: float, like: Tensor) -> NoisePool:
        """For [k] only: other draws than a dense sample has."""
        return NoisePool(self.random_numel, words, refresh, like)

    def sample(self, dense: WeightSample, several: bool, prior_mean: Tensor | None) -> WeightSample:
        """Of the same estimator as `dense`, with its own noise."""
        mean, log_std = dense.mean[self.index], dense.log_std[self.index]
        noise = self.noise(dense.noise.words, dense.noise.refresh, mean)
        prior = None if prior_mean is None else prior_mean[self.index]
        all_kept = torch.ones(len(mean), dtype=torch.bool)
        return type(dense)(self, mean, log_std, all_kept, noise, several, prior)


class SurvivorSample:
    """`held`, a sample of [K], behind the buffers of `shown`, a sample of [P] whose `theta` a binding has."""

    def __init__(self, held: HeldSample, inner: WeightSample, shown: WeightSample, survivors: Survivors, mask: Tensor):
        self._held, self._inner, self._shown, self._index = held, inner, shown, survivors.index
        self.theta, self.grad = shown.theta, shown.grad
        self.theta.mul_(mask)  # what is pruned is never written again
        shown.mean.mul_(mask)

    def draw(self, tick: int, first: bool) -> None:
        """As `WeightSample.draw`."""
        self._held.draw(tick, first)
        self.theta.index_copy_(0, self._index, self._inner.theta)

    def forward(self) -> AbstractContextManager:
        return self._inner.forward()

    def accumulate(self, first: bool) -> None:
        """As `WeightSample.accumulate`."""
        self._gather()
        self._held.accumulate(first)

    def finish(self, first: bool, kl_weight: float, prior_std: float) -> None:
        """As `HeldSample.finish`."""
        self._gather()
        self._held.finish(first, kl_weight, prior_std)

    def forget(self) -> None:
        """As `HeldSample.forget`."""
        self._held.forget()

    def publish(self) -> None:
        """As `HeldSample.publish`: mean and log_std of `shown` become what they now are."""
        self._shown.mean.index_copy_(0, self._index, self._inner.mean)
        self._shown.log_std.index_copy_(0, self._index, self._inner.log_std)

    def reload(self) -> None:
        """As `HeldSample.reload`: goes on from mean and log_std of `shown`."""
        torch.index_select(self._shown.mean, 0, self._index, out=self._inner.mean)
        torch.index_select(self._shown.log_std, 0, self._index, out=self._inner.log_std)
        self._held.forget()

    def _gather(self) -> None:
        torch.index_select(self.grad, 0, self._index, out=self._inner.grad)
