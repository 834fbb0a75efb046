"""Mean and variance of every value in one pass: the graph of a network becomes the graph of its moments.

Legend: N examples, C channels, m mean, v variance. Values are taken as independent normal (Wu et al. 2019, Gast & Roth
2018); an average takes its positions as fully correlated, since they share weights.

A random value is one tensor of channels [m, v, m^2] (lifted) or [m, v]. A layer is then one wider layer, from lifted inputs
to [m, v], with the weights [[mu, 0, 0], [0, mu^2 + sigma^2, sigma^2]]: three weights for each nonzero one, so the sparse
kernels that run networks run moments too. A rule is `MOMENTS[aten operation]`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tombola.errors import TombolaError

from .graph import Graph, Node, Ref, adaptive_max_pool, aten, multiplies
from .pointwise import (
    add_moments,
    average_moments,
    lift,
    lift_inputs,
    max_pool_moments,
    narrowed,
    relu_moments,
    smooth_moments,
    stacked,
)
from .taps import pair


@dataclass
class Rewriting:
    """The graph of moments while it grows."""

    graph: Graph
    made: Graph
    lifted: dict[str, int] = field(default_factory=dict)
    """Random values by name, with their channels in units of C: 2 or 3."""

    def add(self, node: Node, target: Any, arguments: dict[str, Any], units: int) -> None:
        """Add a node of `units` times the channels of the old one, under its name."""
        axis = 1 if len(node.shape) == 4 else len(node.shape) - 1
        shape = tuple(units * size if i == axis else size for i, size in enumerate(node.shape))
        self.made.nodes[node.name] = Node(node.name, target, arguments, shape, node.layer)
        self.lifted[node.name] = units

    def lift(self, ref: Ref) -> Ref:
        """Return the value as [m, v, m^2]; of one without variance, [m, m^2]."""
        if self.lifted.get(ref.name) == 3:
            return ref
        name = f"{ref.name}_lifted"
        if name not in self.made.nodes:
            shape = self.made.shape if ref.name == self.made.input else self.made.nodes[ref.name].shape
            axis = 1 if len(shape) == 4 else len(shape) - 1
            random = ref.name in self.lifted
            target, units = (lift, 1.5) if random else (lift_inputs, 2)
            larger = tuple(int(units * size) if i == axis else size for i, size in enumerate(shape))
            self.made.nodes[name] = Node(name, target, {"x": ref}, larger)
        return Ref(name)


def moments_of(graph: Graph) -> Graph:
    """Return the graph whose output is [N, 2, ...]: mean and variance of the output.

    Raises TombolaError naming the first operation on random values that has no rule.
    """
    rewriting = Rewriting(graph, Graph(graph.input, "moments", graph.shape))
    for node in graph.nodes.values():
        random = [name for name in node.inputs() if name in rewriting.lifted]
        if node.variances or (random and node.target is not aten.sym_size.int):
            rule = MOMENTS.get(node.target)
            if rule is None or not rule(rewriting, node):
                name = str(getattr(node.target, "_schema", node.target)).partition("(")[0].removeprefix("aten::")
                where = f" (in or after {node.layer})" if node.layer else ""
                raise TombolaError(f"moments have no rule for the operation {name}{where}; predict by samples")
        else:
            rewriting.made.nodes[node.name] = node
    random_output = graph.output in rewriting.lifted
    shape = graph.nodes[graph.output].shape
    if len(shape) != 2:
        raise TombolaError(f"the output has the shape {list(shape)}; moments need one of [B, outputs]")
    arguments = {"x": Ref(graph.output), "random": random_output, "count": shape[1]}
    rewriting.made.nodes["moments"] = Node("moments", stacked, arguments, (0, 2, shape[1]))
    return rewriting.made


Rule = Callable[[Rewriting, Node], bool]
MOMENTS: dict[Any, Rule] = {}
"""Operation -> rule: adds the operation's moments, or returns False where it has no way for these arguments."""


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        MOMENTS.update(dict.fromkeys(targets, function))
        return function

    return register


@rule(aten.conv2d.default, aten.linear.default)
def _layer(rewriting: Rewriting, node: Node) -> bool:
    if not multiplies(node) or (node.arguments.get("groups", 1) != 1 and isinstance(node.arguments["input"], Ref)):
        return _depthwise(rewriting, node)
    weight, bias, ref = node.arguments["weight"], node.arguments["bias"], node.arguments["input"]
    spread = node.variances.get("weight", torch.zeros_like(weight))
    zero, random = torch.zeros_like(weight), ref.name in rewriting.lifted
    first = (weight, zero, zero) if random else (weight, zero)
    second = (zero, weight.square() + spread, spread) if random else (zero, spread)
    wide = torch.cat([torch.cat(first, 1), torch.cat(second, 1)])
    offset = torch.zeros(len(weight)) if bias is None else bias
    offset = torch.cat([offset, node.variances.get("bias", torch.zeros(len(weight)))])
    changed = {"input": rewriting.lift(ref), "weight": wide, "bias": offset}
    rewriting.add(node, node.target, node.arguments | changed, 2)
    return True


def _depthwise(rewriting: Rewriting, node: Node) -> bool:
    """Add a layer of several groups without spread: means by its weights, variances by their squares."""
    weight, ref, groups = node.arguments["weight"], node.arguments["input"], node.arguments.get("groups", 1)
    if not isinstance(weight, Tensor) or node.variances or ref.name not in rewriting.lifted:
        return False
    if rewriting.lifted[ref.name] == 3:
        name, shape = f"{ref.name}_narrowed", rewriting.made.nodes[ref.name].shape
        rewriting.made.nodes[name] = Node(name, narrowed, {"x": ref, "units": 3}, (0, shape[1] // 3 * 2, *shape[2:]))
        ref = Ref(name)
    bias = torch.zeros(len(weight)) if node.arguments["bias"] is None else node.arguments["bias"]
    wide = {"weight": torch.cat([weight, weight.square()]), "bias": torch.cat([bias, torch.zeros_like(bias)])}
    rewriting.add(node, node.target, node.arguments | wide | {"input": ref, "groups": 2 * groups}, 2)
    return True


@rule(aten.relu.default)
def _relu(rewriting: Rewriting, node: Node) -> bool:
    (name,) = node.inputs()
    rewriting.add(node, relu_moments, {"x": Ref(name), "units": rewriting.lifted[name]}, 3)
    return True


@rule(aten.gelu.default, aten.silu.default, aten.tanh.default, aten.sigmoid.default, aten.elu.default, aten.softplus.default)
def _smooth(rewriting: Rewriting, node: Node) -> bool:
    ref, *more = node.arguments.values()
    arguments = {"x": ref, "units": rewriting.lifted[ref.name], "function": node.target, "more": tuple(more)}
    if node.target is aten.gelu.default:
        arguments |= {"more": (), "function": torch.nn.GELU(node.arguments["approximate"])}
    rewriting.add(node, smooth_moments, arguments, 3)
    return True


@rule(aten.max_pool2d.default, adaptive_max_pool)
def _max_pool(rewriting: Rewriting, node: Node) -> bool:
    ref, *more = node.arguments.values()
    if node.target is aten.max_pool2d.default:
        if node.arguments["ceil_mode"] or pair(node.arguments["dilation"]) != (1, 1):
            return False
        kernel = list(pair(node.arguments["kernel_size"]))
        more = [kernel, list(pair(node.arguments["stride"] or kernel)), list(pair(node.arguments["padding"]))]
    arguments = {"x": ref, "units": rewriting.lifted[ref.name], "sizes": tuple(more)}
    rewriting.add(node, max_pool_moments, arguments, 3)
    return True


@rule(aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim)
def _average(rewriting: Rewriting, node: Node) -> bool:
    ref, *more = node.arguments.values()
    shape = rewriting.graph.nodes[ref.name].shape
    if node.target is aten.mean.dim:
        over = {dim % len(shape) for dim in node.arguments["dim"]}
        if over != ({2, 3} if len(shape) == 4 else {1}):
            return False  # over channels, which are no positions
    arguments = {"x": ref, "units": rewriting.lifted[ref.name]}
    rewriting.add(node, average_moments, arguments | {"function": node.target, "more": tuple(more)}, 2)
    return True


@rule(aten.add.Tensor)
def _sum(rewriting: Rewriting, node: Node) -> bool:
    """Add two values as independent, or a constant to one."""
    one, other = node.arguments["self"], node.arguments["other"]
    if node.arguments["alpha"] != 1:
        return False
    units = [rewriting.lifted.get(part.name, 1) if isinstance(part, Ref) else 0 for part in (one, other)]
    rewriting.add(node, add_moments, {"one": one, "other": other, "units": units}, 2)
    return True


@rule(aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.flatten.using_ints)
def _flatten(rewriting: Rewriting, node: Node) -> bool:
    """Flatten images: the parts of a value stay in order."""
    ref = next(iter(node.arguments.values()))
    shape = rewriting.graph.nodes[ref.name].shape
    if len(node.shape) != 2 or len(shape) < 2 or node.shape[0] != 0:
        return False
    units = rewriting.lifted[ref.name]
    rewriting.add(node, aten.flatten.using_ints, {"self": ref, "start_dim": 1, "end_dim": -1}, units)
    return len(shape) in (2, 4)


@rule(aten.clone.default)
def _same(rewriting: Rewriting, node: Node) -> bool:
    rewriting.add(node, node.target, node.arguments, rewriting.lifted[node.arguments["self"].name])
    return True
