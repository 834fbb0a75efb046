"""Kept samples: a finite set of equally likely networks, as samplers and ensembles learn; and the Gaussian of their moments.

Legend: P parameters of the layout, K kept samples.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from tombola.errors import TombolaError

from .layout import Layout

if TYPE_CHECKING:
    from .families import Posterior


@dataclass(frozen=True)
class Samples:
    """K equally likely networks, each whole with its deterministic parameters, and the place where their sampler is.

    Without kept samples, as before a training, it is the point `position`.
    """

    family: ClassVar[str] = "samples"
    layout: Layout
    mask: Tensor
    """Bool [P]; False is pruned."""
    position: Tensor
    """The sampler's last parameters [P], from which it goes on; 0 where masked."""
    kept: Tensor
    """Parameters of each kept sample [K, P]; 0 where masked."""

    @property
    def points(self) -> Tensor | None:
        """The equally likely points, [K, P]."""
        return self.kept if len(self.kept) else self.position[None]

    @cached_property
    def mean(self) -> Tensor:
        """Mean over the kept samples [P]; the position where there are none."""
        return self.kept.mean(0) if len(self.kept) else self.position

    @cached_property
    def std(self) -> Tensor | None:
        """Standard deviation over the kept samples (divisor K), [P]: 0 where masked or deterministic; None without any."""
        return self.spread if len(self.kept) else None

    @cached_property
    def spread(self) -> Tensor:
        """Standard deviation of the random parameters over the kept samples, [P]."""
        return self.kept.std(0, correction=0) * self.random_kept

    @property
    def random_kept(self) -> Tensor:
        """Bool [P]: the surviving random parameters."""
        return self.mask & self.layout.is_random.to(self.mask.device)

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw one of the points, [P]."""
        points = self.points
        assert points is not None
        return points[int(torch.randint(len(points), (), generator=generator, device=generator.device))]

    def masked(self, mask: Tensor) -> Self:
        """Return a copy under `mask`, in fresh tensors."""
        pruned = ~mask
        return self.of_tensors(self.layout, mask, {k: v.masked_fill(pruned, 0.0) for k, v in self.tensors().items()})

    def with_mean(self, mean: Tensor) -> Self:
        """Return the same moved as a whole to another mean."""
        shift = mean - self.mean
        return replace(self, position=self.position + shift, kept=self.kept + shift).masked(self.mask)

    def between(self, other: Self, alpha: float) -> Self:
        """Interpolate sample by sample. Raises TombolaError for other numbers of samples."""
        if len(self.kept) != len(other.kept):
            raise TombolaError(
                f"there is no line between {len(self.kept)} kept samples and {len(other.kept)}; give both one train.keep"
            )
        position, kept = torch.lerp(self.position, other.position, alpha), torch.lerp(self.kept, other.kept, alpha)
        return type(self)(self.layout, self.mask | other.mask, position, kept)

    def tensors(self) -> dict[str, Tensor]:
        return {"position": self.position, "kept": self.kept}

    @classmethod
    def of_tensors(cls, layout: Layout, mask: Tensor, tensors: dict[str, Tensor]) -> Self:
        return cls(layout, mask, **tensors)

    @classmethod
    def of(cls, other: "Posterior") -> Self:
        """Return the start of a sampler at the mean of `other`, or with the kept samples that `other` has.

        Raises TombolaError for a posterior with a prior about another mean than 0, which this family does not keep.
        """
        if isinstance(other, cls):
            return other
        if isinstance(other, Samples):
            return cls(other.layout, other.mask, other.position, other.kept)
        if getattr(other, "prior_mean", None) is not None:
            raise TombolaError(f"a posterior of family {cls.family} has a prior about zero; set posterior.prior_mean: zero")
        return cls(other.layout, other.mask, other.mean, other.mean.new_empty(0, len(other.mean)))


class Swag(Samples):
    """The Gaussian of the kept samples' moments: half of its variance diagonal, half along their deviations.

    Maddox et al. 2019, "A Simple Baseline for Bayesian Uncertainty in Deep Learning", equation 1, with every collected
    point among the deviations, taken from the final mean (the paper's are from the running one).
    """

    family: ClassVar[str] = "swag"

    @property
    def points(self) -> Tensor | None:
        """None: a continuous distribution; before a training the position."""
        return None if len(self.kept) else self.position[None]

    @cached_property
    def std(self) -> Tensor | None:
        """Marginal standard deviation [P]: the variance over the kept ones times (1 + K / (K - 1)) / 2."""
        count = len(self.kept)
        return self.spread * (0.5 + 0.5 * count / max(1, count - 1)) ** 0.5 if count else None

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw parameters [P]; deterministic ones are their means."""
        count, mean = len(self.kept), self.mean
        if not count:
            return self.position
        noise = torch.randn(len(mean) + count, generator=generator, dtype=mean.dtype, device=mean.device)
        own, shared = noise.split([len(mean), count])
        deviation = shared @ (self.kept - mean) / max(1, count - 1) ** 0.5
        return mean + (self.spread * own + deviation * self.random_kept) / 2**0.5
