"""Moments of operations on each channel by itself, in torch, on values of channels [m, v, m (m - 2 c)] or [m, v].

Legend: m mean, v variance of independent normal values, c centres of channels. Channels C are axis 1 of
four axes, else the last.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-12
_NODES = 24
"""Nodes of the quadrature of smooth functions."""


def axis_of(x: Tensor) -> int:
    """Return the axis of channels."""
    return 1 if x.ndim == 4 else -1


def split(x: Tensor, units: int) -> tuple[Tensor, Tensor]:
    """Return m and v of a value with `units` (2 or 3) parts."""
    m, v, *_ = x.chunk(units, axis_of(x))
    return m, v


def joined(m: Tensor, v: Tensor, centre: Tensor | None) -> Tensor:
    """Return the value [m, v, m (m - 2 c)]. centre: c, [C]; None is 0."""
    return torch.cat([m, v, _squared(m, centre)], axis_of(m))


def _squared(m: Tensor, centre: Tensor | None) -> Tensor:
    return m.square() if centre is None else m * (m - 2 * (centre.view(-1, 1, 1) if m.ndim == 4 else centre))


def lift(x: Tensor, centre: Tensor | None, units: int) -> Tensor:
    """Return [m, v, m (m - 2 c)] of a value with `units` parts."""
    return joined(*split(x, units), centre)


def lift_inputs(x: Tensor, centre: Tensor | None) -> Tensor:
    """Return [x, x (x - 2 c)] of inputs, which have no variance."""
    return torch.cat([x, _squared(x, centre)], axis_of(x))


def narrowed(x: Tensor, units: int) -> Tensor:
    """Return [m, v] of a value with `units` parts."""
    return torch.cat(split(x, units), axis_of(x))


def relu_moments(x: Tensor, units: int, centre: Tensor | None) -> Tensor:
    """Return the moments of max(x, 0)."""
    return joined(*rectified(*split(x, units)), centre)


def rectified(m: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of max(x, 0): closed form of the rectified normal."""
    v = v.clamp_min(_TINY)
    std = v.sqrt()
    a = m / std
    below, density = torch.special.ndtr(a), torch.exp(-0.5 * a.square()) * (1 / math.sqrt(2 * math.pi))
    # with t = m / std, in units of std: mean t P + p, second moment (1 + t^2) P + t p
    mean = a * below + density
    return std * mean, v * ((1 + a.square()) * below + a * density - mean.square()).clamp_min(0)


def smooth_moments(
    x: Tensor, units: int, function: Callable[..., Tensor], more: Sequence[Any], centre: Tensor | None
) -> Tensor:
    """Return the moments of a smooth function."""
    return joined(*quadrature(*split(x, units), lambda value: function(value, *more)), centre)


def quadrature(m: Tensor, v: Tensor, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and variance of a function by Gauss-Hermite quadrature."""
    std, mean, second = v.clamp_min(0).sqrt(), torch.zeros_like(m), torch.zeros_like(m)
    for place, weight in _quadrature():
        value = function(m + place * std)
        mean += weight * value
        second += weight * value.square()
    return mean, (second - mean.square()).clamp_min(0)


@cache
def _quadrature() -> list[tuple[float, float]]:
    """Return places and weights of an average over N(0, 1)."""
    from numpy.polynomial.hermite_e import hermegauss

    places, weights = hermegauss(_NODES)
    return list(zip(places.tolist(), (weights / weights.sum()).tolist(), strict=True))


def max_pool_moments(x: Tensor, units: int, sizes: Sequence[Any]) -> Tensor:
    """Return [m, v] at the position of the largest mean."""
    m, v = split(x, units)
    pool = F.max_pool2d if len(sizes) > 1 else F.adaptive_max_pool2d
    mean, where = pool(m.contiguous(), *sizes, return_indices=True)
    return torch.cat([mean, v.flatten(2).gather(2, where.flatten(2)).view_as(mean)], 1)


def average_moments(x: Tensor, units: int, function: Callable[..., Tensor], more: Sequence[Any], share: Any) -> Tensor:
    """Return [m, v] of an average over positions.

    Fully correlated positions have averaged standard deviations. share: [N, 1], by how much the variance is less, see
    `mixing.position_share`; 1.0 is full correlation.
    """
    m, v = split(x, units)
    mean, variance = function(m, *more), function(v.clamp_min(0).sqrt(), *more).square()
    if isinstance(share, Tensor):
        variance = variance * share.view(-1, *[1] * (mean.ndim - 1))
    return torch.cat([mean, variance], axis_of(x) if mean.ndim == x.ndim else -1)


def stacked(x: Tensor, random: bool, count: int, factor: float = 1.0) -> Tensor:
    """Return [N, 2, count], mean and variance times `factor`."""
    if not random:
        return torch.stack([x, torch.zeros_like(x)], 1)
    return torch.stack([x[:, :count], x[:, count : 2 * count] * factor], 1)
