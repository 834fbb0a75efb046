"""From the graph of a network to the graph of its moments: the state, and the table of rules.

Legend: N examples, C channels, m mean, v variance, c centre (the mean of a channel over examples, where it is known).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from tombola.errors import TombolaError

from .graph import Graph, Node, Ref, aten, multiplies, refs
from .pointwise import lift, lift_inputs, stacked
from .population import MAXIMA, Population, centred, populations

VIEWS = (aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.flatten.using_ints)
MOVES = (
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.expand.default,
    aten.clone.default,
)
SMOOTH = (
    aten.gelu.default,
    aten.silu.default,
    aten.tanh.default,
    aten.sigmoid.default,
    aten.elu.default,
    aten.softplus.default,
    aten.leaky_relu.default,
    aten.hardtanh.default,
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.mish.default,
    aten.exp.default,
)
_SCALED = (aten.neg.default, aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
_EACH = {*VIEWS, *MOVES, *SMOOTH, *_SCALED, aten.relu.default}
"""Operations that make of each element of one random value another one, and keep them all."""


@dataclass
class Rewriting:
    """The graph of moments while it grows."""

    graph: Graph
    made: Graph
    training: Tensor | None = None
    """Training inputs, which tell the mean of the first value."""
    units: dict[str, int] = field(default_factory=dict)
    """Random values by name, with their channels in units of C: 2 ([m, v]) or 3 ([m, v, m (m - 2 c)])."""
    centres: dict[str, Tensor | None] = field(default_factory=dict)
    """c of the values that have three parts; None is 0."""
    origins: dict[str, str] = field(default_factory=dict)
    """The value that each is made of, element by element: two of one origin are far from independent."""
    _first: dict[tuple[Any, ...], str] = field(default_factory=dict)

    @cached_property
    def centred(self) -> set[str]:
        """Layers before a batch norm."""
        return centred(self.graph)

    @cached_property
    def populations(self) -> dict[str, Population]:
        """Mean and variance of channels over examples."""
        return populations(self.graph, self.training)

    @cached_property
    def users(self) -> dict[str, list[Node]]:
        return self.graph.users()

    def add(self, node: Node, target: Any, arguments: dict[str, Any], units: int, **fields: Any) -> None:
        """Add a node of `units` times the channels of the old one, under its name."""
        self.made.nodes[node.name] = Node(node.name, target, arguments, _wide(node.shape, units), node.layer, **fields)
        self.units[node.name] = units

    def add_lifted(self, node: Node, target: Any, arguments: dict[str, Any]) -> None:
        """Add a node of three parts, with the centre that the first layer that reads it needs."""
        layers = [user for user in self.users[node.name] if multiplies(user)]
        self.centres[node.name] = self.centre(node.name, layers[0]) if layers else None
        self.add(node, target, arguments | {"centre": self.centres[node.name]}, 3)

    def centre(self, name: str, layer: Node) -> Tensor | None:
        """Return the centre of a value for a layer that reads it: None, which is 0, unless a batch norm follows."""
        known = self.populations.get(name)
        return known[0] if known is not None and layer.name in self.centred else None

    def lift(self, ref: Ref, centre: Tensor | None) -> Ref:
        """Return the value as [m, v, m (m - 2 c)]; of one without variance, [m, m^2]."""
        random = ref.name in self.units
        if self.units.get(ref.name) == 3 and _same(self.centres.get(ref.name), centre):
            return ref
        name = f"{ref.name}_lifted" if centre is None else f"{ref.name}_centred"
        if name not in self.made.nodes:
            shape = self.graph.shape if ref.name == self.graph.input else self.graph.nodes[ref.name].shape
            arguments: dict[str, Any] = {"x": ref, "centre": centre}
            arguments |= {"units": self.units[ref.name]} if random else {}
            self.made.nodes[name] = Node(name, lift if random else lift_inputs, arguments, _wide(shape, 3 if random else 2))
        return Ref(name)

    def related(self, *values: Any) -> bool:
        """Return whether two of some random values are functions of the same elements, as x and relu(x), or equal."""
        found = [self.origin(value.name) for value in values if isinstance(value, Ref) and value.name in self.units]
        return len(set(found)) < len(found)

    def origin(self, name: str) -> str:
        """Return the origin of a value; the same operation on the same values, done twice, has one."""
        if name not in self.origins:
            node = self.graph.nodes.get(name)
            self.origins[name] = name if node is None else self._origin(node)
        return self.origins[name]

    def _origin(self, node: Node) -> str:
        random = [name for name in node.inputs() if name in self.units]
        if len(random) == 1 and not node.variances and node.target in _EACH:
            return self.origin(random[0])
        key = [node.target, node.layer, *map(self.origin, node.inputs())]
        for value in node.arguments.values():
            if not isinstance(value, Tensor):
                key.append(None if any(refs(value)) else repr(value))
            elif not node.layer:  # a layer has its tensors, which may be folded ones
                key.append(id(value))
        return self._first.setdefault(tuple(key), node.name)

    def operands(self, *values: Any) -> list[int]:
        """Return the parts of each operand: 1 of one without variance, 0 of a constant."""
        return [self.units.get(value.name, 1) if isinstance(value, Ref) else 0 for value in values]


def channels(shape: tuple[int, ...]) -> int:
    return shape[_axis(shape)]


def _axis(shape: tuple[int, ...]) -> int:
    return 1 if len(shape) == 4 else len(shape) - 1


def _wide(shape: tuple[int, ...], units: int) -> tuple[int, ...]:
    return tuple(units * size if i == _axis(shape) else size for i, size in enumerate(shape))


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and bool((one == other).all()))


Rule = Callable[[Rewriting, Node], bool]
MOMENTS: dict[Any, Rule] = {}
"""Operation -> rule: adds the operation's moments, or returns False where it has no way for these arguments."""
RANDOM = {
    aten.conv2d.default,
    aten.linear.default,
    aten.embedding.default,
    aten.layer_norm.default,
    aten.group_norm.default,
}
"""Operations whose rules know random parameters."""


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Register the rule of operations."""

    def register(function: Rule) -> Rule:
        MOMENTS.update(dict.fromkeys(targets, function))
        return function

    return register


def moments_of(graph: Graph, training: Tensor | None = None) -> Graph:
    """Return the graph whose output is [N, 2, ...]: mean and variance of the output.

    training: training inputs; without them the mean of the inputs is estimated from the batch norms.

    Raises TombolaError naming the first operation on random values that has no rule.
    """
    graph = _pooled_first(graph)
    rewriting = Rewriting(graph, Graph(graph.input, "moments", graph.shape), training)
    for node in graph.nodes.values():
        random = [name for name in node.inputs() if name in rewriting.units]
        if node.variances or (random and node.target is not aten.sym_size.int):
            found = MOMENTS.get(node.target)
            if found is None or (node.variances and node.target not in RANDOM) or not found(rewriting, node):
                name = str(getattr(node.target, "_schema", node.target)).partition("(")[0].removeprefix("aten::")
                name += " of values that depend on each other" * rewriting.related(*map(Ref, random))
                where = f" (in or after {node.layer})" if node.layer else ""
                raise TombolaError(f"moments have no rule for the operation {name}{where}; predict by samples")
        else:
            rewriting.made.nodes[node.name] = node
    shape = graph.nodes[graph.output].shape
    if len(shape) != 2:
        raise TombolaError(f"the output has the shape {list(shape)}; moments need one of [B, outputs]")
    arguments = {"x": Ref(graph.output), "random": graph.output in rewriting.units, "count": shape[1]}
    rewriting.made.nodes["moments"] = Node("moments", stacked, arguments, (0, 2, shape[1]))
    return rewriting.made


def _pooled_first(graph: Graph) -> Graph:
    """Return the graph with max pooling before ReLU, which is the same and leaves ReLU fewer positions."""
    users, nodes = graph.users(), dict(graph.nodes)
    for node in graph.nodes.values():
        after = users[node.name]
        if node.target is aten.relu.default and len(after) == 1 and after[0].target in MAXIMA:
            pool = after[0]
            first = next(iter(pool.arguments))
            nodes[node.name] = replace(pool, name=node.name, arguments=pool.arguments | {first: node.arguments["self"]})
            nodes[pool.name] = replace(node, name=pool.name, arguments={"self": Ref(node.name)}, shape=pool.shape)
    return replace(graph, nodes=nodes)
