"""Moments of operations on values of channels [m, v, m^2] or [m, v], in torch.

Legend: m mean, v variance of independent normal values. Channels are axis 1 of images [N, C, H, W], else the last axis.
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


def joined(m: Tensor, v: Tensor) -> Tensor:
    """Return the value [m, v, m^2]."""
    return torch.cat([m, v, m.square()], axis_of(m))


def lift(x: Tensor) -> Tensor:
    """Return [m, v, m^2] of [m, v]."""
    return joined(*split(x, 2))


def lift_inputs(x: Tensor) -> Tensor:
    """Return [x, x^2] of inputs, which have no variance."""
    return torch.cat([x, x.square()], axis_of(x))


def narrowed(x: Tensor, units: int) -> Tensor:
    """Return [m, v] of a value with `units` parts."""
    return torch.cat(split(x, units), axis_of(x))


def relu_moments(x: Tensor, units: int) -> Tensor:
    """Return the moments of max(x, 0): closed form of the rectified normal."""
    m, v = split(x, units)
    std = (v + _TINY).sqrt()
    a = m / std
    below, density = torch.special.ndtr(a), torch.exp(-0.5 * a.square()) / math.sqrt(2 * math.pi)
    mean = m * below + std * density
    second = (m.square() + v) * below + m * std * density
    return joined(mean, (second - mean.square()).clamp_min(0))


def smooth_moments(x: Tensor, units: int, function: Callable[..., Tensor], more: Sequence[Any]) -> Tensor:
    """Return the moments of a smooth function by Gauss-Hermite quadrature."""
    m, v = split(x, units)
    std, mean, second = v.clamp_min(0).sqrt(), torch.zeros_like(m), torch.zeros_like(m)
    for place, weight in _quadrature():
        value = function(m + place * std, *more)
        mean += weight * value
        second += weight * value.square()
    return joined(mean, (second - mean.square()).clamp_min(0))


@cache
def _quadrature() -> list[tuple[float, float]]:
    """Return places and weights of an average over N(0, 1)."""
    from numpy.polynomial.hermite_e import hermegauss

    places, weights = hermegauss(_NODES)
    return list(zip(places.tolist(), (weights / weights.sum()).tolist(), strict=True))


def max_pool_moments(x: Tensor, units: int, sizes: Sequence[Any]) -> Tensor:
    """Return mean and variance at the position of the largest mean."""
    m, v = split(x, units)
    pool = F.max_pool2d if len(sizes) > 1 else F.adaptive_max_pool2d
    mean, where = pool(m.contiguous(), *sizes, return_indices=True)
    return joined(mean, v.flatten(2).gather(2, where.flatten(2)).view_as(mean))


def average_moments(x: Tensor, units: int, function: Callable[..., Tensor], more: Sequence[Any]) -> Tensor:
    """Return [m, v] of an average over fully correlated positions: standard deviations are averaged."""
    m, v = split(x, units)
    mean, std = function(m, *more), function(v.clamp_min(0).sqrt(), *more)
    return torch.cat([mean, std.square()], axis_of(x) if mean.ndim == x.ndim else -1)


def add_moments(one: Any, other: Any, units: Sequence[int]) -> Tensor:
    """Return [m, v] of a sum of independent values. units: parts of each; 1 of a value without variance, 0 of a constant."""
    pairs = [split(x, count) if count > 1 else (x, 0.0) for x, count in zip((one, other), units, strict=True)]
    (m, v), (m_other, v_other) = pairs
    mean = m + m_other
    return torch.cat([mean, torch.zeros_like(mean) + v + v_other], axis_of(mean))


def stacked(x: Tensor, random: bool, count: int) -> Tensor:
    """Return [N, 2, count], mean and variance."""
    if not random:
        return torch.stack([x, torch.zeros_like(x)], 1)
    return torch.stack([x[:, :count], x[:, count : 2 * count]], 1)
