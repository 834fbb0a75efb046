"""Operations as sparse kernels.

A rule is `RULES[aten operation]`: it takes the builder and a node whose inputs are in blocks, adds operations to the program
and returns True. It returns False where it has no way for these arguments; torch then computes the node.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .blocks import Block
from .builder import Builder, places
from .chains import Chain, sizes_of, source_of, window_of
from .dead import flattened, is_sum, shape_of
from .graph import Node, Ref, adaptive_max_pool, aten
from .mixing import add_moments
from .pointwise import lift, max_pool_moments, relu_moments
from .taps import group_of, pair, sparse


def emit_chain(builder: Builder, chain: Chain) -> None:
    """Add a chain: one convolution kernel."""
    graph, node, program = builder.graph, chain.layer, builder.program
    found = window_of(graph, node)
    assert found is not None
    window, weight = found
    x = builder.strided(source_of(graph, node), window.stride[0])
    other = builder.block(Ref(chain.other)) if chain.other else None
    y = builder.new_block(chain.last.name, *sizes_of(chain.last.shape))
    height, width = sizes_of(node.shape)[1:]
    bias = node.arguments["bias"]
    bias = torch.zeros(len(weight)) if bias is None else bias.float()
    taps = sparse(weight, window, x, node.arguments.get("groups", 1), every=other is not None)
    if other is None:  # channels without a weight are constants, written once
        y.images.copy_((bias.relu() if chain.relu else bias).view(1, -1, 1, 1).expand_as(y.images))
    group = group_of(height, x.row, window.kernel[0], x.channels, chain.pool)
    scratch = torch.empty(group * x.row + 1024)
    program.operation(
        "conv",
        node.name,
        x=x.address,
        rows=taps.rows,
        offsets=taps.offsets,
        values=weight.reshape(-1)[taps.index].float().contiguous(),
        bias=bias[taps.channels].contiguous(),
        channels=taps.channels,
        count=len(taps.channels),
        scratch=scratch,
        height=height,
        width=width * x.chunk,
        step=x.row,
        group=group,
        **places("y", y),
        relu=chain.relu,
        pool=chain.pool,
        **(places("other", other) if other is not None else {"other": 0, "other_row": 0, "other_plane": 0}),
        chunk=x.chunk,
    )


def rows_of(*blocks: Block) -> dict[str, int]:
    """Return the channels of the first block, and number and length of the rows in all; without padding all rows are one."""
    channels, height, width = blocks[0].channels, blocks[0].height, blocks[0].width * blocks[0].chunk
    if any(block.pad for block in blocks):
        return {"channels": channels, "height": height, "width": width}
    return {"channels": channels, "height": 1, "width": height * width}


Rule = Callable[[Builder, Node], bool]
RULES: dict[Any, Rule] = {}
"""Operation of aten -> rule."""


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, function))
        return function

    return register


@rule(aten.relu.default, aten.add.Tensor)
def _joined(builder: Builder, node: Node) -> bool:
    adds = node.target is aten.add.Tensor
    if adds and not is_sum(builder.graph, node):
        return False
    x, *others = [builder.blocks[name] for name in node.inputs()]
    y = builder.new_block(node.name, x.channels, x.height, x.width)
    other = places("other", others[0]) if adds else {"other": 0, "other_row": 0, "other_plane": 0}
    sizes = rows_of(x, y, *others)
    builder.program.operation("join", node.name, **places("x", x), **other, **places("y", y), **sizes, relu=not adds)
    return True


@rule(aten.max_pool2d.default, aten.avg_pool2d.default)
def _window_pool(builder: Builder, node: Node) -> bool:
    a = node.arguments
    kernel, padding = pair(a["kernel_size"]), pair(a["padding"])
    mean = node.target is aten.avg_pool2d.default
    if mean and (any(padding) or a["ceil_mode"] or a["divisor_override"]):
        return False
    if pair(a.get("dilation", 1)) != (1, 1):
        return False
    x, stride = builder.blocks[node.inputs()[0]], pair(a["stride"] or kernel)
    return _pooled(builder, node, windows_of(x, node.shape, kernel, stride, padding), mean)


def windows_of(
    x: Block, shape: tuple[int, ...], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> list[tuple[int, int]]:
    """Return first and last row (exclusive) of each row of windows over x, then the columns; shape: of the output."""
    windows = []
    for axis, size in enumerate((x.height, x.width)):
        starts = [i * stride[axis] - padding[axis] for i in range(shape[2 + axis])]
        windows += [(max(start, 0), min(start + kernel[axis], size)) for start in starts]
    return windows


@rule(aten.adaptive_avg_pool2d.default, adaptive_max_pool)
def _adaptive_pool(builder: Builder, node: Node) -> bool:
    x, windows = builder.blocks[node.inputs()[0]], []
    for size, count in zip((x.height, x.width), node.shape[2:], strict=True):
        windows += [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
    return _pooled(builder, node, windows, node.target is aten.adaptive_avg_pool2d.default)


def _pooled(builder: Builder, node: Node, windows: list[tuple[int, int]], mean: bool) -> bool:
    x = builder.blocks[node.inputs()[0]]
    y = builder.new_block(node.name, *sizes_of(node.shape))
    sizes = {"channels": y.channels, "height": y.height, "width": y.width, "chunk": y.chunk}
    table = torch.tensor(windows).flatten()
    builder.program.operation("pool", node.name, **places("x", x), **places("y", y), **sizes, windows=table, mean=mean)
    return True


@rule(aten.gelu.default)
def _gelu(builder: Builder, node: Node) -> bool:
    if node.arguments["approximate"] != "none":
        return False
    x = builder.blocks[node.inputs()[0]]
    y = builder.new_block(node.name, *sizes_of(node.shape))
    builder.program.operation("gelu", node.name, **places("x", x), **places("y", y), **rows_of(x, y))
    return True


@rule(aten.layer_norm.default)
def _layer_norm(builder: Builder, node: Node) -> bool:
    a, x = node.arguments, builder.blocks[node.inputs()[0]]
    if len(node.shape) == 4 or list(a["normalized_shape"]) != [x.channels]:
        return False
    weight = torch.ones(x.channels) if a["weight"] is None else a["weight"].float().contiguous()
    bias = torch.zeros(x.channels) if a["bias"] is None else a["bias"].float().contiguous()
    y = builder.new_block(node.name, *sizes_of(node.shape))
    sizes = rows_of(x, y)
    more = {"weight": weight, "bias": bias, "eps": torch.tensor([a["eps"]]), "scratch": torch.empty(2 * sizes["width"])}
    builder.program.operation("norm", node.name, **places("x", x), **places("y", y), **sizes, **more)
    return True


@rule(aten.mean.dim)
def _mean_of_tokens(builder: Builder, node: Node) -> bool:
    x = builder.blocks[node.inputs()[0]]
    if len(shape_of(builder.graph, node.inputs()[0])) != 3 or list(node.arguments["dim"]) != [1]:
        return False
    return _pooled(builder, node, [(0, x.height), (0, x.width)], mean=True)


@rule(relu_moments, lift)
def _lifted(builder: Builder, node: Node) -> bool:
    rectified = node.target is relu_moments
    x = builder.blocks[node.inputs()[0]]
    y = builder.new_block(node.name, *sizes_of(node.shape))
    channels, centre = y.channels // 3, node.arguments["centre"]
    doubled = torch.zeros(channels) if centre is None else 2 * centre.float()
    sizes = rows_of(x, y) | {"channels": channels, "rectified": rectified, "doubled": doubled.contiguous()}
    builder.program.operation("lift", node.name, **places("x", x), **places("y", y), **sizes)
    return True


@rule(max_pool_moments)
def _largest_mean(builder: Builder, node: Node) -> bool:
    x, sizes = builder.blocks[node.inputs()[0]], node.arguments["sizes"]
    if len(sizes) == 1:
        return False
    kernel, stride, padding = sizes
    windows = windows_of(x, node.shape, kernel, stride, padding)
    y = builder.new_block(node.name, *sizes_of(node.shape))
    measures = {"channels": y.channels // 2, "height": y.height, "width": y.width, "chunk": y.chunk}
    table = torch.tensor(windows).flatten()
    builder.program.operation("peak", node.name, **places("x", x), **places("y", y), **measures, windows=table)
    return True


@rule(add_moments)
def _sum_of_moments(builder: Builder, node: Node) -> bool:
    names = node.inputs()
    if len(names) != 2 or min(node.arguments["units"]) < 2 or node.arguments["alpha"] != 1:
        return False
    one, other = (builder.blocks[name] for name in names)
    y = builder.new_block(node.name, *sizes_of(node.shape))
    sizes = rows_of(y, one, other)
    fields = {**places("x", one), **places("other", other), **places("y", y), **sizes}
    builder.program.operation("join", node.name, **fields, relu=False)
    return True


@rule(aten.view.default, aten.flatten.using_ints, aten.reshape.default)
def _flattening(builder: Builder, node: Node) -> bool:
    """Add nothing: a value of one position is its own flattening."""
    if not flattened(builder.graph, node):
        return False
    x = builder.blocks[node.inputs()[0]]
    if x.height * x.width > 1:
        return False
    builder.blocks[node.name] = x
    return True
