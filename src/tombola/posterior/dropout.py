"""Bernoulli dropout of units as a distribution over weights, the approximate posterior of MC dropout.

Legend: P parameters of the layout.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from tombola.errors import TombolaError

from .layout import Layout

if TYPE_CHECKING:
    from .families import Posterior


@dataclass(frozen=True)
class Dropout:
    """Weights W = M diag(z) / (1 - rate), each z 1 with probability 1 - rate or else 0: one for each input of a layer.

    Gal & Ghahramani 2016, "Dropout as a Bayesian Approximation", section 3, with inverted scaling, so that M is the mean.
    The inputs of the first layer are data and are not dropped, unless there is no other layer. At rate 0, as before a
    training, it is the point `mean`.
    """

    family: ClassVar[str] = "dropout"
    layout: Layout
    mask: Tensor
    """Bool [P]; False is pruned."""
    mean: Tensor
    """Mean M [P]; 0 where masked."""
    rate: Tensor
    """Probability that an input is dropped, a scalar."""

    @property
    def points(self) -> Tensor | None:
        """Return the one point of rate 0, [1, P]; None above it."""
        return None if self.rate > 0 else self.mean[None]

    @cached_property
    def std(self) -> Tensor | None:
        """Standard deviation [P], abs(M) sqrt(rate / (1 - rate)) where inputs are dropped, else 0; None at rate 0."""
        if not self.rate > 0:
            return None
        return self.mean.abs() * (self.rate / (1 - self.rate)).sqrt() * dropped(self.layout).to(self.mean.device)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw parameters [P]."""
        return self.mean * factors(self.layout, float(self.rate), generator).to(self.mean)

    def masked(self, mask: Tensor) -> "Dropout":
        """Return a copy under `mask`, in fresh tensors."""
        return replace(self, mask=mask, mean=self.mean.masked_fill(~mask, 0.0))

    def with_mean(self, mean: Tensor) -> "Dropout":
        """Return the same rate about another mean."""
        return replace(self, mean=mean.masked_fill(~self.mask, 0.0))

    def between(self, other: "Dropout", alpha: float) -> "Dropout":
        """Interpolate mean and rate at `alpha` on the line to `other`."""
        mean, rate = torch.lerp(self.mean, other.mean, alpha), torch.lerp(self.rate, other.rate, alpha)
        return Dropout(self.layout, self.mask | other.mask, mean, rate)

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "rate": self.rate}

    @classmethod
    def of_tensors(cls, layout: Layout, mask: Tensor, tensors: dict[str, Tensor]) -> "Dropout":
        return cls(layout, mask, **tensors)

    @classmethod
    def of(cls, other: "Posterior") -> "Dropout":
        """Return the mean of `other` at rate 0. Raises TombolaError for a prior about another mean than 0."""
        if isinstance(other, cls):
            return other
        if getattr(other, "prior_mean", None) is not None:
            raise TombolaError("a posterior of family dropout has a prior about zero; set posterior.prior_mean: zero")
        return cls(other.layout, other.mask, other.mean, other.mean.new_zeros(()))


def factors(layout: Layout, rate: float, generator: torch.Generator) -> Tensor:
    """Draw z / (1 - rate) of each parameter, [P]: equal along all that an input feeds, and 1 where none is dropped."""
    found = torch.ones(layout.numel, device=generator.device)
    for segment in _layers(layout):
        inputs = segment.shape[1]
        kept = torch.rand(inputs, generator=generator, device=generator.device) >= rate
        segment.view(found).mul_((kept / (1 - rate)).view(inputs, *[1] * (len(segment.shape) - 2)))
    return found


def dropped(layout: Layout) -> Tensor:
    """Return the places of weights whose inputs are dropped: bool [P]."""
    found = torch.zeros(layout.numel, dtype=torch.bool)
    for segment in _layers(layout):
        found[segment.slice] = True
    return found


def _layers(layout: Layout) -> list:
    """Return the random weights whose inputs (their second dimension) are dropped."""
    weights = [s for s in layout.segments if s.random and len(s.shape) >= 2]
    return weights[1:] or weights
