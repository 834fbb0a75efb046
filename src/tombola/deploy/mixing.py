"""Moments of operations that mix values, in torch: sums, products, softmax, norms of an example, attention.

Legend: m mean, v variance of independent normal values, C values that are mixed, N examples. A value is [m, v] or longer
along the axis of its channels (`pointwise.py`). `units` are the parts of each operand: 2 or 3, 1 of one without variance, 0
of a constant. What is not linear is taken to first order in the deviations (the delta method).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .pointwise import axis_of, split


def operand(x: Any, units: int) -> tuple[Any, Any]:
    """Return m and v of an operand; v is 0.0 where it has no variance."""
    return split(x, units) if units > 1 else (x, 0.0)


def pair_of(m: Tensor, v: Any) -> Tensor:
    """Return [m, v]."""
    return torch.cat([m, torch.zeros_like(m) + v], axis_of(m))


def each_part(x: Any, units: Any, function: Callable[..., Any], more: Mapping[str, Any]) -> Any:
    """Return [m, v] of an operation that only moves values, done to each. x: a value, or a list of them as `cat` has."""
    if isinstance(x, list | tuple):
        pairs = [operand(*each) for each in zip(x, units, strict=True)]
        one, other = [m for m, _ in pairs], [torch.zeros_like(m) + v for m, v in pairs]
    else:
        one, other = split(x, units)  # type: ignore[assignment]
    m, v = function(one, **more), function(other, **more)
    if isinstance(m, list | tuple):
        return [pair_of(*each) for each in zip(m, v, strict=True)]
    return pair_of(m, v)


def add_moments(one: Any, other: Any, units: Sequence[int], alpha: float) -> Tensor:
    """Return [m, v] of one + alpha * other."""
    (m, v), (m_other, v_other) = operand(one, units[0]), operand(other, units[1])
    return pair_of(m + alpha * m_other, v + alpha**2 * v_other)


def product_moments(one: Any, other: Any, units: Sequence[int]) -> Tensor:
    """Return [m, v] of a product, exact for independent values."""
    (m, v), (m_other, v_other) = operand(one, units[0]), operand(other, units[1])
    return pair_of(m * m_other, v * (m_other * m_other + v_other) + m * m * v_other)


def matmul_moments(one: Any, other: Any, units: Sequence[int]) -> Tensor:
    """Return [m, v] of a matrix product, exact for independent values."""
    (m, v), (m_other, v_other) = operand(one, units[0]), operand(other, units[1])
    variance: Any = 0.0
    if isinstance(v, Tensor):
        variance = v @ (m_other.square() + v_other)
    if isinstance(v_other, Tensor):
        variance = variance + m.square() @ v_other
    return pair_of(m @ m_other, variance)


def softmax_moments(x: Tensor, units: int, dim: int) -> Tensor:
    """Return [m, v] of a softmax: that of the means, and its variance to first order."""
    m, v = split(x, units)
    p = m.softmax(dim)
    return pair_of(p, p.square() * (v * (1 - 2 * p) + (p.square() * v).sum(dim, keepdim=True)))


def norm_moments(
    x: Tensor,
    units: int,
    over: int,
    groups: int,
    eps: float,
    affine: Sequence[Tensor | None],
    spread: Sequence[Tensor | None],
) -> Tensor:
    """Return [m, v] of a layer norm over the last `over` axes, or (over 0) of a group norm of `groups`.

    With y the normalised mean, s its scale and mean() over the C values that are normalised together, deviations d become
    (d - mean(d) - y mean(y d)) / s to first order; s^2 is the expected variance of the C values.
    affine, spread: weight and bias, and their variances.
    """
    m, v = split(x, units)
    shape = m.shape
    together = m.shape[: m.ndim - over] if over else (len(m), groups)
    m, v = m.reshape(*together, -1), v.clamp_min(0).reshape(*together, -1)
    count, noise = m.shape[-1], v.mean(-1, keepdim=True)
    scale = (m.var(-1, keepdim=True, unbiased=False) + noise * (1 - 1 / count) + eps).rsqrt()
    y = (m - m.mean(-1, keepdim=True)) * scale
    along, squared = (y * v).mean(-1, keepdim=True), (y.square() * v).mean(-1, keepdim=True)
    v = v * (1 - 2 * (1 + y.square()) / count) + (noise + 2 * y * along + y.square() * squared) / count
    m, v = y.view(shape), (v * scale.square()).clamp_min(0).view(shape)
    if not over:
        affine, spread = ([_channels(each, m.ndim) for each in some] for some in (affine, spread))
    (weight, bias), (weight_spread, bias_spread) = affine, spread
    scaled = torch.cat([m, v], axis_of(m))
    if weight is not None:
        scaled = product_moments(scaled, pair_of(weight, 0.0 if weight_spread is None else weight_spread), (2, 2))
    if bias is not None:
        scaled = add_moments(scaled, pair_of(bias, 0.0 if bias_spread is None else bias_spread), (2, 2), 1)
    return scaled


def _channels(value: Tensor | None, ndim: int) -> Tensor | None:
    return None if value is None else value.view(-1, *[1] * (ndim - 2))


def attention_moments(query: Any, key: Any, value: Any, units: Sequence[int], more: Mapping[str, Any]) -> Tensor:
    """Return [m, v] of scaled dot-product attention with the weights that the means of queries and keys have.

    Values of different tokens are taken as fully correlated, since they come from the same weights: their standard
    deviations are averaged by the attention weights. The variance of queries and keys is left out.
    """
    (q, _), (k, _), (m, v) = (operand(*each) for each in zip((query, key, value), units, strict=True))
    mean = F.scaled_dot_product_attention(q, k, m, **more)
    if isinstance(v, float):
        return pair_of(mean, 0.0)
    return pair_of(mean, F.scaled_dot_product_attention(q, k, v.clamp_min(0).sqrt(), **more).square())


def layer_moments(
    x: Any,
    units: int,
    function: Callable[..., Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    more: Sequence[Any],
) -> Tensor:
    """Return [m, v] of a layer of a value [m, v, m (m - 2 c)], or of [x, x^2], by one layer for each part.

    weights: of the mean, of the variance by v, and by the third part. biases: of mean and variance.
    """
    mean, by_variance, by_square = weights
    axis = axis_of(x)
    m, *rest = x.chunk(units, axis)
    variance = function(rest[-1], by_square, biases[1], *more)
    if len(rest) > 1:
        variance += function(rest[0], by_variance, None, *more)
    return torch.cat([function(m, mean, biases[0], *more), variance], axis)


def position_share(x: Tensor, units: int, centre: Tensor, spread: Tensor, taps: Tensor | None) -> Tensor:
    """Return [N, 1]: how large the variance of an average over a layer's positions is, over that of fully correlated ones.

    The noise of the layer's weights is the same at all positions, so its deviations correlate as the inputs f do that the
    weights multiply, f = m - c: |average f|^2 / average |f|^2.
    x: the layer's input. spread: variances of the weights, [inputs of a position], by which f is weighted. taps: as of
    `averaging_taps`; None of a linear layer of tokens.
    """
    m = split(x, units)[0] if units > 1 else x
    c = centre
    if taps is None:
        one, squares = m.mean(1), m.square().mean(1)
    else:
        m = m.flatten(2)
        one, squares = (m @ taps).flatten(1), (m.square() @ taps).flatten(1)
        c = centre.repeat_interleave(taps.shape[1])
    every = squares - c * (2 * one - c)
    return ((one - c).square() @ spread / (every @ spread).clamp_min(1e-30))[:, None]


def averaging_taps(height: int, width: int, window: Sequence[Any]) -> Tensor:
    """Return [H W, kernel positions]: the weight of each place of an image in the average over the positions of a tap.

    window: kernel, dilation, padding and stride of a convolution.
    """
    places = torch.eye(height * width).view(-1, 1, height, width)
    return F.unfold(places, *window).mean(-1)


def embedding_moments(indices: Tensor, weight: Tensor, spread: Tensor, more: Sequence[Any]) -> Tensor:
    """Return [m, v] of an embedding."""
    return pair_of(F.embedding(indices, weight, *more), F.embedding(indices, spread, *more))
