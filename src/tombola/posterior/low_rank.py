"""The Gaussian whose covariance is low rank plus diagonal.

Legend: P parameters of the layout, n of them random, r rows of the factor.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from tombola.errors import TombolaError

from .gaussian import Gaussian
from .layout import Layout

if TYPE_CHECKING:
    from .families import Posterior


@dataclass(frozen=True)
class LowRank:
    """N(mean, diag(exp(log_std)^2) + factor^T factor) over the surviving random parameters.

    Ong, Nott & Smith 2018, "Gaussian Variational Approximation with a Factor Covariance Structure", section 2. Without rows
    in `factor`, as before a training, it is the mean-field Gaussian.
    """

    family: ClassVar[str] = "low_rank"
    points: ClassVar[None] = None
    layout: Layout
    mask: Tensor
    """Bool [P]; False is pruned."""
    mean: Tensor
    """Mean [P]; exactly 0 where masked."""
    log_std: Tensor
    """Natural logarithm of the diagonal's standard deviation [P]; 0 where masked."""
    factor: Tensor
    """[r, P]; 0 where masked or deterministic."""

    @property
    def random_kept(self) -> Tensor:
        """Bool [P]: the surviving random parameters."""
        return self.mask & self.layout.is_random.to(self.mask.device)

    @property
    def std(self) -> Tensor:
        """Marginal standard deviation [P]: exactly 0 where masked or deterministic."""
        return ((2 * self.log_std).exp() + self.factor.square().sum(0)).sqrt() * self.random_kept

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw parameters [P]."""
        mean, size = self.mean, self.factor.shape
        own, shared = torch.randn(sum(size), generator=generator, dtype=mean.dtype, device=mean.device).split(size[::-1])
        return mean + self.log_std.exp() * self.random_kept * own + shared @ self.factor

    def masked(self, mask: Tensor) -> "LowRank":
        """Return a copy under `mask`, in fresh tensors."""
        pruned = ~mask
        return self.of_tensors(self.layout, mask, {k: v.masked_fill(pruned, 0.0) for k, v in self.tensors().items()})

    def with_mean(self, mean: Tensor) -> "LowRank":
        """Return the same about another mean."""
        return replace(self, mean=mean.masked_fill(~self.mask, 0.0))

    def between(self, other: "LowRank", alpha: float) -> "LowRank":
        """Interpolate means, factors and the diagonal's std at `alpha`. Raises TombolaError for another rank."""
        if len(self.factor) != len(other.factor):
            raise TombolaError(
                f"there is no line between ranks {len(self.factor)} and {len(other.factor)}; give both one train.rank"
            )
        ends = (Gaussian(one.layout, one.mean, one.log_std, one.mask) for one in (self, other))
        between = next(ends).between(next(ends), alpha)
        factor = torch.lerp(self.factor, other.factor, alpha)
        return LowRank(self.layout, between.mask, between.mean, between.log_std, factor)

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "log_std": self.log_std, "factor": self.factor}

    @classmethod
    def of_tensors(cls, layout: Layout, mask: Tensor, tensors: dict[str, Tensor]) -> "LowRank":
        return cls(layout, mask, **tensors)

    @classmethod
    def of(cls, other: "Posterior") -> "LowRank":
        """Return mean and marginal std of `other`, without correlations.

        Raises TombolaError if `other` is a point, or has a prior about another mean than 0, which this family does not keep.
        """
        if isinstance(other, cls):
            return other
        q = Gaussian.of(other)
        if q.prior_mean is not None:
            raise TombolaError(f"a posterior of family {cls.family} has a prior about zero; set posterior.prior_mean: zero")
        return cls(q.layout, q.mask, q.mean, q.log_std, q.mean.new_empty(0, len(q.mean)))


def kl_slopes(mean: Tensor, std: Tensor, factor: Tensor, prior_std: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the derivatives of KL(N(mean, diag(std^2) + factor^T factor) || N(0, prior_std^2)) by mean, log std and factor.

    mean, std: [n], std above 0. factor: [r, n]. With V = factor / std and C = I + V V^T, the log determinant of the
    covariance is log det C + 2 sum log std, so that C^-1 [r, r] is the only inverse (Ong et al. 2018, equations 8 and 9).
    """
    scaled, precision = factor / std, prior_std**-2
    inner = torch.eye(len(factor), dtype=torch.float64, device=std.device) + (scaled @ scaled.T).double()
    solved = torch.linalg.solve(inner, scaled.double()).to(std)
    by_log_std = std.square() * precision - 1 + (scaled * solved).sum(0)
    return mean * precision, by_log_std, factor * precision - solved / std
