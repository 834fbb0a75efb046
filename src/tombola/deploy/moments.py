"""Mean and variance of every value in one pass: the rules of operations.

Legend: N examples, C channels, m mean, v variance, c centre. Values are taken as independent normal (Wu et al. 2019, Gast &
Roth 2018); an average takes its positions as fully correlated, since they share weights.

A random value is one tensor of channels [m, v] or [m, v, m (m - 2 c)]. A layer of weights mu with variances s is then one
wider layer to [m, v] with the weights [[mu, 0, 0], [0, mu^2 + s, s]] and the bias sum of s c^2 for v: three weights for each
nonzero one, so the sparse kernels that run networks run moments too. With c = 0 that is the variance of the layer. Before a
batch norm c is the channel's mean over examples: what the noise of a weight adds to all examples alike, batch norm by each
sample's own statistics takes out, and the variance is of what is left. Of the bias before it nothing is left.
"""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import mixing
from .graph import Node, Ref, adaptive_max_pool, aten, multiplies
from .pointwise import (
    average_moments,
    max_pool_moments,
    narrowed,
    relu_moments,
    smooth_moments,
)
from .rewriting import MOMENTS, MOVES, SMOOTH, VIEWS, Rewriting, channels, moments_of, rule
from .taps import pair

__all__ = ["MOMENTS", "moments_of"]


@rule(aten.conv2d.default, aten.linear.default)
def _layer(rewriting: Rewriting, node: Node) -> bool:
    ref = node.arguments["input"]
    random = ref.name in rewriting.units
    if not multiplies(node):
        return False
    if not node.variances and random and node.arguments.get("groups", 1) != 1:
        return _depthwise(rewriting, node)
    weight, bias = node.arguments["weight"], node.arguments["bias"]
    none = torch.zeros(len(weight))
    spread, centre = node.variances.get("weight", torch.zeros_like(weight)), rewriting.centre(ref.name, node)
    extra = none if node.name in rewriting.centred else node.variances.get("bias", none)
    if centre is not None:
        groups = node.arguments.get("groups", 1)
        of_group = centre.square().view(groups, -1).repeat_interleave(len(weight) // groups, 0)
        extra = extra + (spread.flatten(2).sum(2) if spread.ndim > 2 else spread).mul(of_group).sum(1)
    biases = [none if bias is None else bias, extra]
    lifted = rewriting.lift(ref, centre)
    more = [node.arguments[name] for name in ("stride", "padding", "dilation", "groups") if name in node.arguments]
    function = F.linear if node.target is aten.linear.default else F.conv2d
    weights = [weight, weight.square() + spread, spread]
    arguments: dict[str, Any] = {"x": lifted, "units": 3 if random else 2, "function": function}
    arguments |= {"weights": weights, "biases": biases, "more": more}
    apart = Node(node.name, mixing.layer_moments, arguments, node.shape)
    if node.arguments.get("groups", 1) != 1:
        rewriting.add(node, mixing.layer_moments, arguments, 2)
        return True
    zero = torch.zeros_like(weight)
    first, second = [weight, zero, zero], [zero, *weights[1:]]
    if not random:
        first, second = first[:2], [zero, spread]
    wide = torch.cat([torch.cat(first, 1), torch.cat(second, 1)])
    changed = node.arguments | {"input": lifted, "weight": wide, "bias": torch.cat(biases)}
    rewriting.add(node, node.target, changed, 2, apart=apart, norm=node.norm)
    return True


def _depthwise(rewriting: Rewriting, node: Node) -> bool:
    """Add a layer of several groups without spread: means by its weights, variances by their squares."""
    weight, ref, groups = node.arguments["weight"], node.arguments["input"], node.arguments["groups"]
    if rewriting.units[ref.name] == 3:
        name, shape = f"{ref.name}_narrowed", rewriting.made.nodes[ref.name].shape
        rewriting.made.nodes[name] = Node(name, narrowed, {"x": ref, "units": 3}, (0, shape[1] // 3 * 2, *shape[2:]))
        ref = Ref(name)
    bias = torch.zeros(len(weight)) if node.arguments["bias"] is None else node.arguments["bias"]
    wide = {"weight": torch.cat([weight, weight.square()]), "bias": torch.cat([bias, torch.zeros_like(bias)])}
    rewriting.add(node, node.target, node.arguments | wide | {"input": ref, "groups": 2 * groups}, 2, norm=node.norm)
    return True


@rule(aten.embedding.default)
def _embedding(rewriting: Rewriting, node: Node) -> bool:
    weight, ref = node.arguments["weight"], node.arguments["indices"]
    if not isinstance(weight, Tensor) or not isinstance(ref, Ref) or ref.name in rewriting.units:
        return False
    arguments = {"indices": ref, "weight": weight, "spread": node.variances["weight"]}
    rewriting.add(node, mixing.embedding_moments, arguments | {"more": ()}, 2)
    return True


@rule(aten.relu.default)
def _relu(rewriting: Rewriting, node: Node) -> bool:
    (name,) = node.inputs()
    rewriting.add_lifted(node, relu_moments, {"x": Ref(name), "units": rewriting.units[name]})
    return True


@rule(*SMOOTH)
def _smooth(rewriting: Rewriting, node: Node) -> bool:
    ref, *more = node.arguments.values()
    arguments = {"x": ref, "units": rewriting.units[ref.name], "function": node.target, "more": tuple(more)}
    if node.target is aten.gelu.default:
        arguments |= {"more": (), "function": torch.nn.GELU(node.arguments["approximate"])}
    rewriting.add_lifted(node, smooth_moments, arguments)
    return True


@rule(aten.max_pool2d.default, adaptive_max_pool)
def _max_pool(rewriting: Rewriting, node: Node) -> bool:
    ref, *more = node.arguments.values()
    if node.target is aten.max_pool2d.default:
        if node.arguments["ceil_mode"] or pair(node.arguments["dilation"]) != (1, 1):
            return False
        kernel = list(pair(node.arguments["kernel_size"]))
        more = [kernel, list(pair(node.arguments["stride"] or kernel)), list(pair(node.arguments["padding"]))]
    arguments = {"x": ref, "units": rewriting.units[ref.name], "sizes": tuple(more)}
    rewriting.add(node, max_pool_moments, arguments, 2)
    return True


@rule(aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim)
def _average(rewriting: Rewriting, node: Node) -> bool:
    ref, *more = node.arguments.values()
    shape = rewriting.graph.nodes[ref.name].shape
    if node.target is aten.mean.dim:
        more = [node.arguments["dim"], node.arguments["keepdim"]]
        over = {dim % len(shape) for dim in node.arguments["dim"]}
        if over != ({2, 3} if len(shape) == 4 else {1}):
            return False  # over channels, which are no positions
    arguments = {"x": ref, "units": rewriting.units[ref.name]}
    share = _share(rewriting, node) if node.shape[1:] in (shape[1:2], (*shape[1:2], 1, 1), shape[2:]) else 1.0
    arguments |= {"function": node.target, "more": tuple(more), "share": share}
    rewriting.add(node, average_moments, arguments, 2)
    return True


def _share(rewriting: Rewriting, average: Node) -> Any:
    """Add the share of an average over all positions, from the input of the last layer before it; 1.0 where it has none."""
    order = list(rewriting.graph.nodes)
    before, layer = average.inputs(), None
    while before and layer is None:
        last = max((name for name in before if name in order), key=order.index, default=None)
        if last is None:
            return 1.0
        node = rewriting.graph.nodes[last]
        layer = node if node.variances and multiplies(node) else None
        before = node.inputs()
    spread = layer.variances.get("weight") if layer is not None else None
    if layer is None or spread is None or len(layer.shape) < 3 or layer.arguments.get("groups", 1) != 1:
        return 1.0
    ref = layer.arguments["input"]
    centre = rewriting.centre(ref.name, layer)
    if centre is None:  # values that are positive, or share a mean otherwise: full correlation is nearer
        return 1.0
    a, name = layer.arguments, f"{average.name}_share"
    taps = None
    if spread.ndim == 4:
        shape = rewriting.graph.shape if ref.name == rewriting.graph.input else rewriting.graph.nodes[ref.name].shape
        window = [spread.shape[2:], *(list(pair(a[key])) for key in ("dilation", "padding", "stride"))]
        taps = mixing.averaging_taps(shape[2], shape[3], window)
    arguments = {"x": ref, "units": rewriting.units.get(ref.name, 1), "centre": centre}
    arguments |= {"spread": spread.flatten(1).sum(0), "taps": taps}
    rewriting.made.nodes[name] = Node(name, mixing.position_share, arguments, (0, 1))
    return Ref(name)


@rule(*VIEWS)
def _flatten(rewriting: Rewriting, node: Node) -> bool:
    """Flatten images, whose parts stay in order; move other values part by part."""
    ref = next(iter(node.arguments.values()))
    shape = rewriting.graph.nodes[ref.name].shape
    if len(node.shape) != 2 or len(shape) not in (2, 4) or node.shape[0] != 0 or shape[0] != 0:
        return _moved(rewriting, node)
    units, centre = rewriting.units[ref.name], rewriting.centres.get(ref.name)
    rewriting.add(node, aten.flatten.using_ints, {"self": ref, "start_dim": 1, "end_dim": -1}, units)
    if centre is not None:
        rewriting.centres[node.name] = centre.repeat_interleave(shape[2] * shape[3]) if len(shape) == 4 else centre
    return True


@rule(*MOVES, aten.select.int, aten.slice.Tensor, aten.unbind.int, aten.split.Tensor)
def _moved(rewriting: Rewriting, node: Node) -> bool:
    first, *names = node.arguments
    ref = node.arguments[first]
    if node.target is aten.expand.default and channels(node.shape) != channels(rewriting.graph.nodes[ref.name].shape):
        return False  # channels that are one value are not independent
    more = {name: node.arguments[name] for name in names}
    function = node.target
    if "size" in more and function is not aten.expand.default:  # a view, of what may lie otherwise in memory
        function, more = aten.reshape.default, {"shape": more["size"]}
    arguments = {"x": ref, "units": rewriting.units[ref.name], "function": function, "more": more}
    rewriting.add(node, mixing.each_part, arguments, 2)
    return True


@rule(operator.getitem)
def _item(rewriting: Rewriting, node: Node) -> bool:
    rewriting.add(node, node.target, node.arguments, 2)
    return True


@rule(aten.cat.default)
def _concatenation(rewriting: Rewriting, node: Node) -> bool:
    parts, dim = node.arguments["tensors"], node.arguments["dim"]
    if rewriting.related(*parts):
        return False
    arguments = {"x": parts, "units": rewriting.operands(*parts), "function": torch.cat, "more": {"dim": dim}}
    rewriting.add(node, mixing.each_part, arguments, 2)
    return True


@rule(aten.add.Tensor, aten.sub.Tensor)
def _sum(rewriting: Rewriting, node: Node) -> bool:
    """Add two values as independent, or a constant to one; a value to itself as its multiple."""
    one, other = node.arguments["self"], node.arguments["other"]
    alpha = node.arguments["alpha"] if node.target is aten.add.Tensor else -node.arguments["alpha"]
    if isinstance(one, Ref) and one == other:
        times = {"one": one, "other": 1.0 + alpha, "units": rewriting.operands(one, alpha)}
        rewriting.add(node, mixing.product_moments, times, 2)
        return True
    if rewriting.related(one, other):
        return False
    arguments = {"one": one, "other": other, "units": rewriting.operands(one, other), "alpha": alpha}
    rewriting.add(node, mixing.add_moments, arguments, 2)
    return True


@rule(aten.mul.Tensor, aten.div.Tensor, aten.neg.default)
def _product(rewriting: Rewriting, node: Node) -> bool:
    one, other = node.arguments["self"], node.arguments.get("other", -1.0)
    if node.target is aten.div.Tensor:
        if isinstance(other, Ref):
            return False
        other = 1 / other
    if rewriting.related(one, other):
        return False
    arguments = {"one": one, "other": other, "units": rewriting.operands(one, other)}
    rewriting.add(node, mixing.product_moments, arguments, 2)
    return True


@rule(aten.matmul.default, aten.bmm.default)
def _matmul(rewriting: Rewriting, node: Node) -> bool:
    one, other = node.arguments.values()
    if rewriting.related(one, other):
        return False
    arguments = {"one": one, "other": other, "units": rewriting.operands(one, other)}
    rewriting.add(node, mixing.matmul_moments, arguments, 2)
    return True


@rule(aten.softmax.int)
def _softmax(rewriting: Rewriting, node: Node) -> bool:
    ref, dim = node.arguments["self"], node.arguments["dim"]
    rewriting.add(node, mixing.softmax_moments, {"x": ref, "units": rewriting.units[ref.name], "dim": dim}, 2)
    return True


@rule(aten.layer_norm.default, aten.group_norm.default)
def _norm(rewriting: Rewriting, node: Node) -> bool:
    a, ref = node.arguments, node.arguments["input"]
    if ref.name not in rewriting.units:
        return False  # a random norm of what is not random
    groups = a.get("num_groups", 0)
    over = 0 if groups else len(a["normalized_shape"])
    arguments = {"x": ref, "units": rewriting.units[ref.name], "over": over, "groups": groups, "eps": a["eps"]}
    arguments |= {"affine": [a["weight"], a["bias"]], "spread": [node.variances.get(name) for name in ("weight", "bias")]}
    rewriting.add(node, mixing.norm_moments, arguments, 2)
    return True


@rule(aten.scaled_dot_product_attention.default)
def _attention(rewriting: Rewriting, node: Node) -> bool:
    query, key, value, *_ = parts = [node.arguments[name] for name in ("query", "key", "value")]
    names = ("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    more = {name: node.arguments[name] for name in names if name in node.arguments}
    arguments = {"query": query, "key": key, "value": value, "units": rewriting.operands(*parts), "more": more}
    rewriting.add(node, mixing.attention_moments, arguments, 2)
    return True
