"""Layers that sparse kernels run, each with the operations after it that its kernel has a place for."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from .dead import flattened, is_sum, shape_of
from .graph import Graph, Node, Ref, aten, multiplies
from .taps import Window, pair


@dataclass
class Chain:
    """A layer with what its kernel does to the sums before it writes them."""

    layer: Node
    last: Node
    other: str = ""
    """Value that is added."""
    relu: bool = False
    pool: bool = False
    """True where the largest of each 2x2 positions is kept."""


def sizes_of(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return channels, rows and columns of a value: images, [N, tokens, features] or [N, features].

    Tokens are rows, of which a group can stay in the cache.
    """
    if len(shape) == 4:
        return shape[1], shape[2], shape[3]
    return (shape[2], shape[1], 1) if len(shape) == 3 else (shape[1], 1, 1)


def fits(shape: tuple[int, ...]) -> bool:
    """Return whether a value can lie in a block: float images, tokens or features of N examples."""
    return len(shape) in (2, 3, 4) and shape[0] == 0 and min(shape[1:]) > 0


def window_of(graph: Graph, node: Node) -> tuple[Window, Tensor] | None:
    """Return geometry and weight [O, I, kernel] of a layer; None if no kernel has it. A linear layer is a convolution."""
    arguments, weight = node.arguments, node.arguments["weight"]
    shape = shape_of(graph, arguments["input"].name)
    if not fits(shape) or not fits(node.shape):
        return None
    if node.target is aten.linear.default:
        source = graph.nodes.get(arguments["input"].name)
        images = flattened(graph, source) if source is not None else ()
        if images:
            return Window(images[2:]), weight.reshape(len(weight), *images[1:])  # type: ignore[arg-type]
        return Window((1, 1)), weight.reshape(*weight.shape, 1, 1)
    stride = pair(arguments["stride"])
    if stride[0] != stride[1]:
        return None
    return Window(pair(weight.shape[2:]), stride, pair(arguments["padding"]), pair(arguments["dilation"])), weight


def source_of(graph: Graph, node: Node) -> Ref:
    """Return the value that a layer's kernel reads: before a flattening, which needs no copy."""
    ref: Ref = node.arguments["input"]
    source = graph.nodes.get(ref.name)
    if node.target is aten.linear.default and source is not None and flattened(graph, source):
        return Ref(source.inputs()[0])
    return ref


def chains_of(graph: Graph, dense: Collection[str]) -> list[Chain]:
    """Return the layers that sparse kernels run, each with the operations that follow it as far as its kernel has them."""
    users, taken, found = graph.users(), set(), []
    for node in graph.nodes.values():
        if not multiplies(node) or node.name in dense or window_of(graph, node) is None:
            continue
        chain = Chain(node, node)
        while chain.last.name != graph.output and len(users[chain.last.name]) == 1 and not chain.pool:
            after = users[chain.last.name][0]
            if after.name in taken or not _extended(graph, chain, after):
                break
            chain.last = after
            taken.add(after.name)
        found.append(chain)
    return found


def _extended(graph: Graph, chain: Chain, after: Node) -> bool:
    """Put the next operation into a chain; return False if the kernel has no place for it."""
    if after.target is aten.relu.default and not chain.relu:
        chain.relu = True
    elif is_sum(graph, after) and not chain.other and not chain.relu:
        one, other = after.arguments["self"].name, after.arguments["other"].name
        if one == other:
            return False
        chain.other = other if one == chain.last.name else one
    elif after.target is aten.max_pool2d.default and chain.relu and not chain.other and after.inputs():
        a = after.arguments
        two = all(pair(a[name] or a["kernel_size"]) == (2, 2) for name in ("kernel_size", "stride"))
        plain = two and pair(a["padding"]) == (0, 0) and pair(a["dilation"]) == (1, 1) and not a["ceil_mode"]
        if not plain or len(chain.layer.shape) != 4:
            return False
        chain.pool = True
    else:
        return False
    return True


def inside(graph: Graph, chain: Chain) -> list[str]:
    """Return the nodes of a chain but the last, and a flattening that its layer reads through."""
    names, users = [], graph.users()
    name = chain.layer.name
    while name != chain.last.name:
        names.append(name)
        name = users[name][0].name
    ref = chain.layer.arguments["input"]
    if source_of(graph, chain.layer) != ref and len(users[ref.name]) == 1:
        names.append(ref.name)
    return names
