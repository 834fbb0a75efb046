"""Measurement of what moments cannot know: by weight samples on a few inputs, and by training examples.

Over examples, positions and weight samples, a batch norm by each sample's own statistics leaves a channel the mean and the
variance of the norm. Moments have both: the average of m, and the variance of m plus the average of v.

Values of a layer correlate, since they share the noise of the layers before, and moments take them as independent. Before a
batch norm v is then too large or too small, and m, which has the rest of the norm's variance, too; a trained last layer
reads along what values share, so that the variances of outputs are too small. Weight samples tell both: one factor for v of
each layer before a batch norm, and one for the outputs.

Legend: m mean, v variance, N examples, C channels.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .graph import Graph, Node, evaluated

_LEAST = 1e-3
"""Share of its variance below which a channel is constant and keeps its scale; the least that is left for its mean."""


def spread_of(
    networks: Iterable[Graph], inputs: Tensor, names: Collection[str], population: int | None = None
) -> dict[str, Tensor]:
    """Return the variance over two or more networks of the values of nodes, averaged over inputs and positions: [C] each.

    population: number of equally likely networks in all, where these are different ones of them.
    """
    count, sums, squares = 0, dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)

    def add(node: Node, value: Any) -> Any:
        if node.name in sums:
            exact = value.double()
            sums[node.name] = sums[node.name] + exact
            squares[node.name] = squares[node.name] + exact.square()
        return value

    for network in networks:
        _run(network, inputs, add)
        count += 1
    share = (1 - 1 / population if population else 1) / (count - 1)
    found: dict[str, Any] = {name: share * (squares[name] - total * total / count) for name, total in sums.items()}
    return {name: value.mean(_rest(value)).clamp_min(0).float() for name, value in found.items()}


def calibrate(graph: Graph, inputs: Tensor, spread: Mapping[str, Tensor], *, norms: bool) -> None:
    """Scale layers of a graph of moments in place: those before a batch norm get the variances of `spread`.

    spread: as `spread_of` returns it; those of other layers are left as they are.
    norms: whether each channel is also shifted and scaled to the mean and the variance of its norm: of training inputs.
    """
    _run(graph, inputs, partial(_fitted, spread, norms))


def match(graph: Graph, inputs: Tensor, variance: Tensor) -> None:
    """Scale the output variances of a graph of moments by one factor, in place, to an average over inputs, [C]."""
    expected = _run(graph, inputs)[:, 1].mean(0).sum()
    if expected > 0 and variance.sum() > 0:
        graph.nodes[graph.output].arguments["factor"] = (variance.sum() / expected).item()


def _run(graph: Graph, x: Tensor, seen: Callable[[Node, Any], Any] = lambda node, value: value) -> Tensor:
    """Return the output for x. seen: what is made of each value."""
    last = {name: node.name for node in graph.nodes.values() for name in node.inputs()}
    values: dict[str, Any] = {graph.input: x}
    for node in graph.nodes.values():
        values[node.name] = seen(node, evaluated(node.apart or node, values))
        for name in node.inputs():
            if last[name] == node.name:
                values.pop(name, None)
    found: Tensor = values[graph.output]
    return found


def _fitted(spread: Mapping[str, Tensor], norms: bool, node: Node, value: Any) -> Any:
    """Fit a layer to its norm; return its value [m, v] then."""
    if node.norm is None:
        return value
    m, v = value.chunk(2, 1)
    mean, noise, (centre, variance) = m.mean(_rest(m)), v.mean(_rest(v)), node.norm
    of_mean, shift = torch.ones_like(mean), torch.zeros_like(mean)
    of_variance = of_mean
    if norms:
        total = m.var(_rest(m), unbiased=False) + noise
        varies = total > _LEAST * variance
        of_variance = torch.where(varies, variance / total, 1.0)
        of_mean = of_variance.sqrt()
    if node.name in spread and noise.sum() > 0:
        of_variance = of_variance * (spread[node.name].sum() / (noise * of_variance).sum())
        if norms:  # the mean has what the noise leaves of the norm's variance
            left = (variance - noise * of_variance).clamp_min(_LEAST * variance)
            of_mean = torch.where(varies, (left / (total - noise).clamp_min(_LEAST * total)).sqrt(), of_mean)
    if norms:
        shift = centre - mean * of_mean
    factors, shifts = torch.cat([of_mean, of_variance]), torch.cat([shift, torch.zeros_like(shift)])
    node.arguments["weight"] = node.arguments["weight"] * _along(factors, node.arguments["weight"].ndim, 0)
    node.arguments["bias"] = node.arguments["bias"] * factors + shifts
    if node.apart is not None:
        a = node.apart.arguments
        each = (of_mean, of_variance, of_variance)
        a["weights"] = [w * _along(f, w.ndim, 0) for w, f in zip(a["weights"], each, strict=True)]
        a["biases"] = list(node.arguments["bias"].chunk(2))
    return value * _along(factors, value.ndim, 1) + _along(shifts, value.ndim, 1)


def _rest(value: Tensor) -> list[int]:
    """Return the axes that are no channels."""
    return [axis for axis in range(value.ndim) if axis != 1]


def _along(values: Tensor, ndim: int, axis: int) -> Tensor:
    """Return values [C] along an axis of `ndim`."""
    return values.view([-1 if i == axis else 1 for i in range(ndim)])
