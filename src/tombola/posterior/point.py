"""The point: one number for each parameter.

Legend: P parameters of the layout.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from .layout import Layout

if TYPE_CHECKING:
    from .families import Posterior


@dataclass(frozen=True)
class Point:
    """One number for each parameter: the family that method `map` learns."""

    family: ClassVar[str] = "point"
    layout: Layout
    mean: Tensor
    """Value of each parameter [P]; exactly 0 where masked."""
    mask: Tensor
    """Bool [P]; False is pruned."""

    @property
    def std(self) -> None:
        """Return None: nothing is random."""
        return None

    @property
    def points(self) -> Tensor:
        """The one point, [1, P]."""
        return self.mean[None]

    def sample(self, generator: torch.Generator) -> Tensor:
        """Return the mean, [P]."""
        return self.mean

    def masked(self, mask: Tensor) -> "Point":
        """Return a copy under `mask`, in fresh tensors."""
        return replace(self, mean=self.mean.masked_fill(~mask, 0.0), mask=mask)

    def with_mean(self, mean: Tensor) -> "Point":
        """Return another point, of the same mask."""
        return replace(self, mean=mean.masked_fill(~self.mask, 0.0))

    def between(self, other: "Point", alpha: float) -> "Point":
        """Return the point at `alpha` on the line to `other`."""
        return replace(self, mean=torch.lerp(self.mean, other.mean, alpha), mask=self.mask | other.mask)

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean}

    @classmethod
    def of_tensors(cls, layout: Layout, mask: Tensor, tensors: dict[str, Tensor]) -> "Point":
        return cls(layout, mask=mask, **tensors)

    @classmethod
    def of(cls, other: "Posterior") -> "Point":
        """Return the mean of `other`; a point is returned as it is."""
        return other if isinstance(other, cls) else cls(other.layout, other.mean, other.mask)
