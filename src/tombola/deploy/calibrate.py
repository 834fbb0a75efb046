"""Batch norms of moments by their own statistics, measured on training examples.

Over examples, positions and weight samples, a batch norm by each sample's own statistics leaves a channel the mean and the
variance of the norm. Moments have both: the average of m, and the variance of m plus the average of v.
"""

from typing import Any

import torch
from torch import Tensor

from .graph import Graph, Node, evaluated

_LEAST = 1e-3
"""Share of its variance below which a channel is constant and keeps its scale."""


def calibrate(graph: Graph, training: Tensor) -> None:
    """Scale and shift the layers of a graph of moments, in place, so that each channel has the moments of its norm."""
    last = {name: node.name for node in graph.nodes.values() for name in node.inputs()}
    values: dict[str, Any] = {graph.input: training}
    for node in graph.nodes.values():
        value = evaluated(node.apart or node, values)
        values[node.name] = value if node.norm is None else _normalised(node, value)
        for name in node.inputs():
            if last[name] == node.name:
                values.pop(name, None)


def _normalised(node: Node, value: Tensor) -> Tensor:
    """Fit a layer to its norm; return its value [m, v] then."""
    assert node.norm is not None
    m, v = value.chunk(2, 1)
    rest = [axis for axis in range(m.ndim) if axis != 1]
    mean, total = m.mean(rest), m.var(rest, unbiased=False) + v.mean(rest)
    scale = torch.where(total > _LEAST * node.norm[1], (node.norm[1] / total).sqrt(), 1.0)
    shift = node.norm[0] - mean * scale
    factors, shifts = torch.cat([scale, scale.square()]), torch.cat([shift, torch.zeros_like(shift)])
    node.arguments["weight"] = node.arguments["weight"] * factors.view(-1, *[1] * (node.arguments["weight"].ndim - 1))
    node.arguments["bias"] = node.arguments["bias"] * factors + shifts
    if node.apart is not None:
        a = node.apart.arguments
        each = (scale, scale.square(), scale.square())
        a["weights"] = [w * f.view(-1, *[1] * (w.ndim - 1)) for w, f in zip(a["weights"], each, strict=True)]
        a["biases"] = list(node.arguments["bias"].chunk(2))
    shape = (1, -1, *[1] * (value.ndim - 2))
    return value * factors.view(shape) + shifts.view(shape)
