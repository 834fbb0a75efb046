"""The mean-field Gaussian over the parameters of a layout.

Legend: P parameters of the layout.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError

from .layout import Layout

if TYPE_CHECKING:
    from .families import Posterior


@dataclass(frozen=True)
class Gaussian:
    """Mean-field Gaussian: parameter i ~ N(mean_i, std_i^2), std = exp(log_std) * mask * is_random.

    log_std is finite everywhere, also where a parameter is masked or deterministic (there it means nothing): an infinite one
    would turn optimiser states and reductions into NaN.
    """

    family: ClassVar[str] = "gaussian"
    layout: Layout
    mean: Tensor
    """Mean [P]; exactly 0 where masked."""
    log_std: Tensor
    """Natural logarithm of the standard deviation [P]; 0 where masked."""
    mask: Tensor
    """Bool [P]; False is pruned."""
    prior_mean: Tensor | None = None
    """Mean of the prior [P], 0 where masked; None is 0 everywhere."""

    @property
    def random_kept(self) -> Tensor:
        """Bool [P]: the surviving random parameters."""
        return self.mask & self.layout.is_random.to(self.mask.device)

    @property
    def std(self) -> Tensor:
        """Effective standard deviation [P]: exactly 0 where masked or deterministic."""
        return self.log_std.exp() * self.random_kept

    @property
    def points(self) -> None:
        """Return None: it is continuous."""
        return None

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw parameters [P]."""
        mean = self.mean
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return torch.addcmul(mean, self.std, noise)

    def kl(self, prior_std: float) -> Tensor:
        """Return KL(q || N(prior_mean, prior_std^2)) in nats, see `kl_gaussian`."""
        return kl_gaussian(self.mean, self.log_std, self.random_kept, prior_std, self.prior_mean)

    def masked(self, mask: Tensor) -> "Gaussian":
        """Return a copy under `mask`, in fresh tensors."""
        pruned = ~mask
        return self.of_tensors(self.layout, mask, {k: v.masked_fill(pruned, 0.0) for k, v in self.tensors().items()})

    def with_mean(self, mean: Tensor) -> "Gaussian":
        """Return the Gaussian of the same log_std and prior about another mean."""
        return replace(self, mean=mean.masked_fill(~self.mask, 0.0))

    def between(self, other: "Gaussian", alpha: float) -> "Gaussian":
        """Interpolate means and std (not its logarithm) at `alpha` on the line to `other`; the prior's mean is 0."""
        mean, std = torch.lerp(self.mean, other.mean, alpha), torch.lerp(self.std, other.std, alpha)
        return _with_std(self.layout, mean, std, self.mask | other.mask)

    def tensors(self) -> dict[str, Tensor]:
        prior = {} if self.prior_mean is None else {"prior_mean": self.prior_mean}
        return {"mean": self.mean, "log_std": self.log_std, **prior}

    @classmethod
    def of_tensors(cls, layout: Layout, mask: Tensor, tensors: dict[str, Tensor]) -> "Gaussian":
        return cls(layout, mask=mask, **tensors)

    @classmethod
    def of(cls, other: "Posterior") -> "Gaussian":
        """Return the Gaussian of mean and marginal std of `other`. Raises TombolaError if `other` is a point."""
        if isinstance(other, cls):
            return other
        if (std := other.std) is None:
            raise TombolaError("a Gaussian needs a std, and this posterior is a point: transplant it into a Bayesian state")
        return _with_std(other.layout, other.mean, std, other.mask)


def _with_std(layout: Layout, mean: Tensor, std: Tensor, mask: Tensor) -> Gaussian:
    """Return the Gaussian of that effective std [P]; its log_std is finite everywhere."""
    q = Gaussian(layout, mean, mean, mask)
    smallest = torch.finfo(mean.dtype).tiny
    return replace(q, log_std=torch.where(q.random_kept, std.clamp(min=smallest), 1.0).log())


def kl_gaussian(mean: Tensor, log_std: Tensor, keep: Tensor, prior_std: float, prior_mean: Tensor | None = None) -> Tensor:
    """Return KL(N(mean, exp(log_std)^2) || N(prior_mean, prior_std^2)) in nats, summed over `keep` (bool [P]).

    Closed form of Kingma & Welling 2014, appendix B, for any prior. Raises TombolaError if prior_std <= 0.
    """
    if prior_std <= 0:
        raise TombolaError(f"prior_std is {prior_std}; it must be above 0")
    mean, log_std = (mean if prior_mean is None else mean - prior_mean)[keep], log_std[keep]
    second_moment = (2 * log_std).exp() + mean.square()
    terms = second_moment / (2 * prior_std**2) - 0.5 - log_std
    return terms.sum() + terms.numel() * math.log(prior_std)


def kaiming_uniform(layout: Layout, generator: torch.Generator) -> Tensor:
    """Draw [P] from U(-b, b), b = 1/sqrt(fan_in): He et al. 2015 with a = sqrt(5), as torch's linear and conv layers do."""
    return layout.of_row_major(2 * torch.rand(layout.numel, generator=generator) - 1) * layout.kaiming_scale


def initial_mean(layout: Layout, module: nn.Module, rule: str, generator: torch.Generator) -> Tensor:
    """Return means [P]: the module's present values (`module`), or Kaiming-uniform draws of the random ones."""
    own = layout.flatten(dict(module.named_parameters())).clone()
    if rule == "module":
        return own
    drawn = kaiming_uniform(layout, generator).to(own)
    return torch.where(layout.is_random.to(own.device), drawn, own)


def initial_log_std(
    layout: Layout, mean: Tensor, std: float, scale: str, jitter: float, generator: torch.Generator
) -> Tensor:
    """Return log_std [P]: log of `std` times a scale of `STD_SCALES` for means `mean` [P], plus N(0, jitter^2)."""
    if std <= 0:
        raise TombolaError(f"std is {std}; it must be above 0")
    base = torch.full((layout.numel,), std) * STD_SCALES[scale](layout, mean.cpu())
    return base.log() + jitter * layout.of_row_major(torch.randn(layout.numel, generator=generator))


def _of_weight(layout: Layout, mean: Tensor) -> Tensor:
    return torch.maximum(mean.abs().float(), _SMALLEST_WEIGHT * layout.kaiming_scale)


_SMALLEST_WEIGHT = 0.1
STD_SCALES: dict[str, Callable[[Layout, Tensor], Tensor | float]] = {
    "absolute": lambda layout, mean: 1.0,
    "kaiming": lambda layout, mean: layout.kaiming_scale,
    "weight": _of_weight,
}
"""Scales of an initial std: 1; 1/sqrt(fan_in) of the layer; abs(mean), but at least 0.1/sqrt(fan_in)."""
