"""Means of the values of a network over examples and positions, as its batch norms tell them.

A batch norm by its own statistics takes out what all examples of a channel have in common, so the noise of a weight before
it reaches the outputs through its input less the input's mean. A value that follows a batch norm has a known mean and
variance there; where none is known, the mean is taken as 0, with which the variances come out larger.

Legend: C channels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .dead import flattened, is_sum
from .graph import Graph, Node, adaptive_max_pool, aten, multiplies
from .pointwise import quadrature, rectified

Population = tuple[Tensor, Tensor]
"""Mean and variance of each channel, [C]."""

MAXIMA = (aten.max_pool2d.default, adaptive_max_pool)
_AVERAGES = (aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default)
SMOOTH: dict[object, Callable[..., Tensor]] = {
    aten.gelu.default: torch.nn.functional.gelu,
    aten.silu.default: torch.nn.functional.silu,
}
_LARGEST = 0.7
"""Mean of the largest of four values that correlate by 0.5, in standard deviations over their own mean."""


def populations(graph: Graph, training: Tensor | None = None) -> dict[str, Population]:
    """Return mean and variance of the values, by node, where a batch norm tells them.

    training: inputs whose mean is taken; without them the first layer with a batch norm tells it.
    """
    found: dict[str, Population] = {}
    mean = _input_mean(graph) if training is None else _channel_mean(training)
    if mean is not None:
        found[graph.input] = mean, torch.ones_like(mean)
    for node in graph.nodes.values():
        known = [found.get(name) for name in node.inputs()]
        if node.norm is not None:
            found[node.name] = node.norm
        elif known and all(each is not None for each in known):
            made = _after(graph, node, [each for each in known if each is not None])
            if made is not None:
                found[node.name] = made
    return found


def _input_mean(graph: Graph) -> Tensor | None:
    """Return the mean of each channel of the input, as the first layer with a batch norm tells it: by least squares.

    Folded, the layer's outputs have the batch norm's means: sum over taps of weight * mean + bias = shift of the norm. Of
    fewer outputs than channels one mean is found for all.
    """
    layers = [node for node in graph.nodes.values() if multiplies(node) and node.norm is not None]
    first = next((node for node in layers if node.inputs() == [graph.input]), None)
    if first is None or first.norm is None or first.arguments.get("groups", 1) != 1:
        return None
    weight, bias = first.arguments["weight"].double(), first.arguments["bias"].double()
    taps = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
    same = taps.shape[1] > len(taps)
    found = torch.linalg.lstsq(
        taps.sum(1, keepdim=True) if same else taps, (first.norm[0].double() - bias)[:, None], driver="gelsd"
    )
    return found.solution[:, 0].float().expand(taps.shape[1]).contiguous()


def _channel_mean(x: Tensor) -> Tensor | None:
    """Return the mean of each channel, [C]; None of tokens."""
    axis = 1 if x.ndim == 4 else x.ndim - 1
    return x.mean([i for i in range(x.ndim) if i != axis]) if x.is_floating_point() else None


def _after(graph: Graph, node: Node, known: list[Population]) -> Population | None:
    mean, variance = known[0]
    if node.target is aten.relu.default:
        return rectified(mean, variance)
    if node.target in SMOOTH:
        return quadrature(mean, variance, SMOOTH[node.target])
    if node.target in MAXIMA:
        return mean + _LARGEST * variance.sqrt(), variance
    if node.target in _AVERAGES:
        return mean, variance
    if is_sum(graph, node):
        return mean + known[-1][0], variance + known[-1][1]
    if sizes := flattened(graph, node):
        positions = sizes[2] * sizes[3]
        return mean.repeat_interleave(positions), variance.repeat_interleave(positions)
    return None


def centred(graph: Graph) -> set[str]:
    """Return the layers whose outputs a batch norm gets, directly or through pooling, and nothing else."""
    users = graph.users()

    def reaches(node: Node) -> bool:
        after = users[node.name]
        return len(after) == 1 and (_is_norm(after[0]) or (after[0].target in MAXIMA + _AVERAGES and reaches(after[0])))

    layers = (node for node in graph.nodes.values() if multiplies(node))
    return {node.name for node in layers if node.norm is not None or reaches(node)}


def _is_norm(node: Node) -> bool:
    """Return whether a node is a batch norm by itself."""
    return node.norm is not None and not node.variances and node.arguments["weight"].numel() == len(node.norm[0])
