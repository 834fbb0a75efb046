"""Channels that nothing needs, and channels that are constant, taken out of the weights exactly.

A channel without a nonzero weight before it is its bias everywhere; where it is read without padding, it moves into the next
layer's bias. Padded zeros are no constant: there it stays, unless it is zero. A channel that no nonzero weight reads needs
no weights of its own.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .graph import Graph, Node, Ref, aten, multiplies

_EACH: dict[object, Callable[[Tensor], Tensor]] = {
    aten.relu.default: torch.relu,
    aten.max_pool2d.default: lambda x: x,
    aten.adaptive_avg_pool2d.default: lambda x: x,
}
"""Operations on each channel by itself, and the value that a constant channel then has."""


def without_dead_channels(graph: Graph) -> int:
    """Set weights from and to dead channels to zero, in place, until none is left; return the number of weights removed."""
    layers = [node for node in graph.nodes.values() if multiplies(node)]
    for node in layers:  # a layer that is used twice is two nodes, of which each has other channels that are dead
        node.arguments |= {key: None if (own := node.arguments[key]) is None else own.clone() for key in ("weight", "bias")}
    before = start = _nonzeros(layers)
    while True:
        _drop_unread(graph)
        _drop_constant(graph)
        if (now := _nonzeros(layers)) == before:
            return start - now
        before = now


def _nonzeros(layers: list[Node]) -> int:
    return sum(int(node.arguments["weight"].count_nonzero()) for node in layers)


def _drop_unread(graph: Graph) -> None:
    """Zero the weights and bias of channels that nothing reads."""
    needed: dict[str, Tensor] = {}
    for node in reversed(graph.nodes.values()):
        channels = needed.get(node.name)
        if node.name == graph.output:
            channels = None  # all
        if multiplies(node):
            weight, bias = node.arguments["weight"], node.arguments["bias"]
            if channels is not None:
                weight[~channels] = 0
                if bias is not None:
                    bias[~channels] = 0
            _need(needed, graph, node.arguments["input"], _reads(node))
        elif node.target in _EACH or is_sum(graph, node):
            for ref in (Ref(name) for name in node.inputs()):
                _need(needed, graph, ref, channels)
        elif (sizes := flattened(graph, node)) and channels is not None:
            _need(needed, graph, node.arguments["self"], channels.view(sizes[1], -1).any(1))
        else:
            for name in node.inputs():
                _need(needed, graph, Ref(name), None)


def _need(needed: dict[str, Tensor], graph: Graph, ref: Ref, channels: Tensor | None) -> None:
    """Note that `channels` of a value are read, by default all."""
    shape = shape_of(graph, ref.name)
    if shape:
        count = shape[1] if len(shape) == 4 else shape[-1]
        channels = torch.ones(max(count, 0), dtype=torch.bool) if channels is None else channels
        needed[ref.name] = needed.get(ref.name, torch.zeros_like(channels)) | channels


def _reads(node: Node) -> Tensor:
    """Return which input channels have a nonzero weight, bool [C]."""
    weight, groups = node.arguments["weight"], node.arguments.get("groups", 1)
    return weight.flatten(2).any(2).view(groups, -1, weight.shape[1]).any(1).flatten() if weight.ndim > 2 else weight.any(0)


def _drop_constant(graph: Graph) -> None:
    """Move what constant channels add into the biases of the layers that read them."""
    constant: dict[str, Tensor] = {}  # [C], NaN where a channel is none
    for node in graph.nodes.values():
        known = [constant.get(name) for name in node.inputs()]
        if multiplies(node):
            if known[0] is not None:
                _absorb(node, known[0])
            weight, bias = node.arguments["weight"], node.arguments["bias"]
            empty = ~weight.flatten(1).any(1)
            value = torch.zeros(len(weight)) if bias is None else bias
            constant[node.name] = torch.where(empty, value, torch.nan)
        elif any(value is None for value in known) or not known:
            continue
        elif node.target in _EACH:
            constant[node.name] = _EACH[node.target](known[0])  # type: ignore[arg-type]
        elif is_sum(graph, node):
            constant[node.name] = known[0] + known[-1]  # type: ignore[operator]
        elif sizes := flattened(graph, node):
            constant[node.name] = known[0].repeat_interleave(sizes[2] * sizes[3])  # type: ignore[union-attr]


def _absorb(node: Node, constant: Tensor) -> None:
    weight, groups = node.arguments["weight"], node.arguments.get("groups", 1)
    padded = weight.ndim == 4 and any(node.arguments["padding"])
    gone = constant == 0 if padded else ~constant.isnan()
    if groups > 1 or not bool(gone.any()):
        return
    taps = weight[:, gone].double().flatten(2).sum(2) if weight.ndim == 4 else weight[:, gone].double()
    added = taps @ constant[gone].double()
    if bool(added.any()):
        bias = node.arguments["bias"]
        node.arguments["bias"] = (added if bias is None else bias.double() + added).float()
    weight[:, gone] = 0


def is_sum(graph: Graph, node: Node) -> bool:
    """Return whether a node is the sum of two values of one shape."""
    if node.target is not aten.add.Tensor or node.arguments["alpha"] != 1:
        return False
    parts = [node.arguments[name] for name in ("self", "other")]
    return all(isinstance(part, Ref) and shape_of(graph, part.name) == node.shape for part in parts)


def flattened(graph: Graph, node: Node) -> tuple[int, ...]:
    """Return the shape of the images that a node flattens to [N, features], () of another node."""
    if node.target not in (aten.view.default, aten.flatten.using_ints, aten.reshape.default) or len(node.shape) != 2:
        return ()
    shape = shape_of(graph, node.inputs()[0])
    return (
        shape
        if len(shape) == 4 and shape[0] == node.shape[0] == 0 and shape[1] * shape[2] * shape[3] == node.shape[1]
        else ()
    )


def shape_of(graph: Graph, name: str) -> tuple[int, ...]:
    return graph.shape if name == graph.input else graph.nodes[name].shape
