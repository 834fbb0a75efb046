"""Posteriors over the parameters of a layout: the mean-field Gaussian, and the point of deterministic training.

Legend: P parameters of the layout.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError

from .layout import Layout


class Posterior(Protocol):
    """What predictions, scores and tickets need of a distribution over a layout's parameters."""

    layout: Layout
    mask: Tensor

    @property
    def mean(self) -> Tensor: ...
    @property
    def std(self) -> Tensor: ...
    def sample(self, generator: torch.Generator) -> Tensor: ...
    def masked(self, mask: Tensor) -> Self: ...
    def tensors(self) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Point:
    """One number for each parameter: what `map` learns."""

    layout: Layout
    mean: Tensor
    """[P]; exactly 0 where masked."""
    mask: Tensor
    """Bool [P]; False is pruned."""

    @property
    def std(self) -> Tensor:
        """[P] of zeros."""
        return torch.zeros_like(self.mean)

    def sample(self, generator: torch.Generator) -> Tensor:
        """The mean, [P]."""
        return self.mean

    def masked(self, mask: Tensor) -> "Point":
        """The same under `mask`, in fresh tensors."""
        return replace(self, mean=self.mean.masked_fill(~mask, 0.0), mask=mask)

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean}


@dataclass(frozen=True)
class Gaussian:
    """Mean-field Gaussian: parameter i ~ N(mean_i, std_i^2), std = exp(log_std) * mask * is_random.

    log_std is finite everywhere, also where a parameter is masked or deterministic (there it means nothing): an infinite one
    would turn optimiser states and reductions into NaN.
    """

    layout: Layout
    mean: Tensor
    """[P]; exactly 0 where masked."""
    log_std: Tensor
    """[P], natural logarithm; 0 where masked."""
    mask: Tensor
    """Bool [P]; False is pruned."""
    prior_mean: Tensor | None = None
    """[P]; 0 where masked. None is 0 everywhere."""

    @property
    def random_kept(self) -> Tensor:
        """Bool [P]: the surviving random parameters."""
        return self.mask & self.layout.is_random.to(self.mask.device)

    @property
    def std(self) -> Tensor:
        """Effective standard deviation [P]: exactly 0 where masked or deterministic."""
        return self.log_std.exp() * self.random_kept

    def sample(self, generator: torch.Generator) -> Tensor:
        """A draw [P]."""
        mean = self.mean
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return torch.addcmul(mean, self.std, noise)

    def kl(self, prior_std: float) -> Tensor:
        """KL(q || N(prior_mean, prior_std^2)) in nats, see `kl_gaussian`."""
        return kl_gaussian(self.mean, self.log_std, self.random_kept, prior_std, self.prior_mean)

    def masked(self, mask: Tensor) -> "Gaussian":
        """The same under `mask`, in fresh tensors."""
        pruned = ~mask
        tensors = {name: value.masked_fill(pruned, 0.0) for name, value in self.tensors().items()}
        return Gaussian(self.layout, mask=mask, **tensors)

    def tensors(self) -> dict[str, Tensor]:
        prior = {} if self.prior_mean is None else {"prior_mean": self.prior_mean}
        return {"mean": self.mean, "log_std": self.log_std, **prior}


POSTERIORS: dict[str, Any] = {"point": Point, "gaussian": Gaussian}


def kl_gaussian(mean: Tensor, log_std: Tensor, keep: Tensor, prior_std: float, prior_mean: Tensor | None = None) -> Tensor:
    """KL(N(mean, exp(log_std)^2) || N(prior_mean, prior_std^2)) in nats, summed over the parameters in `keep` (bool [P]).

    Closed form of Kingma & Welling 2014, appendix B, for any prior. Raises ValueError if prior_std <= 0.
    """
    if prior_std <= 0:
        raise TombolaError(f"prior_std is {prior_std}; it must be above 0")
    mean, log_std = (mean if prior_mean is None else mean - prior_mean)[keep], log_std[keep]
    second_moment = (2 * log_std).exp() + mean.square()
    terms = second_moment / (2 * prior_std**2) - 0.5 - log_std
    return terms.sum() + terms.numel() * math.log(prior_std)


def kaiming_uniform(layout: Layout, generator: torch.Generator) -> Tensor:
    """[P] from U(-b, b), b = 1/sqrt(fan_in): He et al. 2015 with a = sqrt(5), as torch's own linear and conv layers."""
    return (2 * torch.rand(layout.numel, generator=generator) - 1) * layout.kaiming_scale


def initial_mean(layout: Layout, module: nn.Module, rule: str, generator: torch.Generator) -> Tensor:
    """[P]: the module's present values (`module`), or for random parameters Kaiming-uniform draws (`kaiming_uniform`)."""
    own = layout.flatten(dict(module.named_parameters())).clone()
    if rule == "module":
        return own
    drawn = kaiming_uniform(layout, generator).to(own)
    return torch.where(layout.is_random.to(own.device), drawn, own)


def initial_log_std(
    layout: Layout, mean: Tensor, std: float, scale: str, jitter: float, generator: torch.Generator
) -> Tensor:
    """[P]: log of `std` times what `scale` names (`STD_SCALES`) for means `mean` [P], plus N(0, jitter^2)."""
    if std <= 0:
        raise TombolaError(f"std is {std}; it must be above 0")
    base = torch.full((layout.numel,), std) * STD_SCALES[scale](layout, mean.cpu())
    return base.log() + jitter * torch.randn(layout.numel, generator=generator)


def _of_weight(layout: Layout, mean: Tensor) -> Tensor:
    return torch.maximum(mean.abs().float(), _SMALLEST_WEIGHT * layout.kaiming_scale)


_SMALLEST_WEIGHT = 0.1
STD_SCALES: dict[str, Callable[[Layout, Tensor], Tensor | float]] = {
    "absolute": lambda layout, mean: 1.0,
    "kaiming": lambda layout, mean: layout.kaiming_scale,
    "weight": _of_weight,
}
"""What an initial std is relative to: nothing; 1/sqrt(fan_in) of the layer; abs(mean), but at least 0.1/sqrt(fan_in)."""
