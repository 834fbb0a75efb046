"""The Gaussian with a full covariance of the random parameters: for a last layer, or a small network.

Legend: P parameters of the layout, of which the first n are random.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from tombola.errors import TombolaError

from .layout import Layout

if TYPE_CHECKING:
    from .families import Posterior

LARGEST = 8192
"""Most random parameters of a full covariance: 256 MB in float32."""


@dataclass(frozen=True)
class FullGaussian:
    """N(mean, root root^T) over the random parameters; the others are numbers."""

    family: ClassVar[str] = "full"
    layout: Layout
    mask: Tensor
    """Bool [P]; False is pruned."""
    mean: Tensor
    """Mean [P]; 0 where masked."""
    root: Tensor
    """Root of the covariance [n, n]; rows are 0 where masked, so that the others keep their marginal distribution."""

    @property
    def points(self) -> None:
        """Return None: it is continuous."""
        return None

    @cached_property
    def std(self) -> Tensor:
        """Marginal standard deviation [P]: exactly 0 where masked or deterministic."""
        return pad(self.root.square().sum(1).sqrt(), (0, len(self.mean) - len(self.root)))

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw parameters [P]."""
        n, mean = len(self.root), self.mean
        noise = torch.randn(n, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + pad(self.root @ noise, (0, len(mean) - n))

    def masked(self, mask: Tensor) -> "FullGaussian":
        """Return a copy under `mask`, in fresh tensors: the marginal distribution of the survivors."""
        root = self.root.masked_fill(~mask[: len(self.root), None], 0.0)
        return replace(self, mask=mask, mean=self.mean.masked_fill(~mask, 0.0), root=root)

    def with_mean(self, mean: Tensor) -> "FullGaussian":
        """Return the Gaussian of the same covariance about another mean."""
        return replace(self, mean=mean.masked_fill(~self.mask, 0.0))

    def between(self, other: "FullGaussian", alpha: float) -> "FullGaussian":
        """Interpolate means and roots at `alpha` on the line to `other`."""
        mean, root = torch.lerp(self.mean, other.mean, alpha), torch.lerp(self.root, other.root, alpha)
        return FullGaussian(self.layout, self.mask | other.mask, mean, root)

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "root": self.root}

    @classmethod
    def of_tensors(cls, layout: Layout, mask: Tensor, tensors: dict[str, Tensor]) -> "FullGaussian":
        return cls(layout, mask, **tensors)

    @classmethod
    def of(cls, other: "Posterior") -> "FullGaussian":
        """Return the Gaussian of mean and marginal std of `other`.

        Raises TombolaError for a point, more than `LARGEST` random parameters, or a prior about another mean than 0.
        """
        if isinstance(other, cls):
            return other
        if (n := other.layout.random_numel) > LARGEST:
            raise TombolaError(
                f"a full covariance of {n:,} random parameters is too large, {LARGEST:,} are possible; choose fewer by "
                "posterior.random, such as the last layer's"
            )
        if other.std is None:
            raise TombolaError(
                "a full Gaussian needs a std, and this posterior is a point: transplant it into a Bayesian one"
            )
        if getattr(other, "prior_mean", None) is not None:
            raise TombolaError("a posterior of family full has a prior about zero; set posterior.prior_mean: zero")
        return cls(other.layout, other.mask, other.mean, torch.diag(other.std[:n]))
