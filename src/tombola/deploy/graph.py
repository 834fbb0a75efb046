"""The network as a list of operations with constants, got by torch.export.

Batch norm is folded into the convolution or linear layer before it; elsewhere it becomes a convolution of single weights.
"""

import operator
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tombola.errors import TombolaError, is_out_of_memory
from tombola.posterior.modes import in_evaluation

aten = torch.ops.aten

_BATCH_NORMS = (aten._native_batch_norm_legit_no_training.default,)
_NOTHING = (aten.detach.default, aten.alias.default, aten.contiguous.default)
"""Operations that do nothing in evaluation."""


_VIEWS = (aten.view.default, aten._unsafe_view.default)


@dataclass(frozen=True)
class Ref:
    """The value of a node."""

    name: str


@dataclass
class Node:
    """One operation: its arguments by the names of its schema; tensors among them are constants or `Ref`."""

    name: str
    target: Any
    """Operation of torch's aten, or a function of Python."""
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    """Shape of the value, see `_sizes`."""
    layer: str = ""
    """Name of the layer whose parameters it has."""
    variances: dict[str, Tensor] = field(default_factory=dict)
    """Variances of its random parameters, by argument."""
    norm: tuple[Tensor, Tensor] | None = None
    """Mean and variance, each [C], that a batch norm gives to its channels: of one that this node is, or contains."""
    apart: "Node | None" = None
    """The same in a form that is faster in torch than on sparse kernels."""

    def inputs(self) -> list[str]:
        """Return the names of the nodes that it needs, in order."""
        return [ref.name for ref in refs(self.arguments)]


@dataclass
class Graph:
    """Operations in order; the first input and the output by name."""

    input: str
    output: str
    shape: tuple[int, ...] = ()
    """Shape of the input, see `_sizes`."""
    nodes: dict[str, Node] = field(default_factory=dict)

    def users(self) -> dict[str, list[Node]]:
        """Return the nodes that need each value."""
        found: dict[str, list[Node]] = {name: [] for name in (self.input, *self.nodes)}
        for node in self.nodes.values():
            for name in dict.fromkeys(node.inputs()):
                found[name].append(node)
        return found


def refs(value: Any) -> Iterator[Ref]:
    """Yield the references in arguments."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from refs(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from refs(part)


def replaced(value: Any, names: Mapping[str, Any]) -> Any:
    """Return arguments with the references that `names` has replaced."""
    if isinstance(value, Ref):
        return names.get(value.name, value)
    if isinstance(value, Mapping):
        return {key: replaced(part, names) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(replaced(part, names) for part in value)
    return value


def traced(module: nn.Module, example: Tensor) -> Any:
    """Return torch.export's program of `module` in evaluation mode, for inputs like the example's rows.

    Raises TombolaError where torch.export cannot follow the module for any number of examples.
    """
    two = example[:1].repeat(2, *[1] * (example.ndim - 1))  # of one row, torch.export would fix the number
    batch = ({0: torch.export.Dim("batch")},)
    try:
        with in_evaluation(module), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch's own parts, on the way
            return torch.export.export(module, (two,), dynamic_shapes=batch).run_decompositions({})
    except Exception as error:  # torch.export's errors have no class in common
        if is_out_of_memory(error):
            raise
        first = str(error).strip().partition("\n")[0]
        raise TombolaError(
            f"torch.export cannot follow {type(module).__name__}, so it cannot be compiled: {first}"
        ) from error


def graph_of(
    program: Any, module: nn.Module, weights: Mapping[str, Tensor], variances: Mapping[str, Tensor] | None = None
) -> Graph:
    """Return the graph of a program of `module` (`traced`), with `weights`, a state_dict, in place of the module's own.

    variances: of the random parameters, by name; by default none is random.

    Raises TombolaError for several inputs or outputs.
    """
    return folded(_graph_of(program, {**module.state_dict(), **weights}, variances or {}))


def _graph_of(program: Any, values: Mapping[str, Tensor], variances: Mapping[str, Tensor]) -> Graph:
    signature = program.graph_signature
    if len(signature.user_inputs) != 1 or len(signature.user_outputs) != 1:
        found = f"{len(signature.user_inputs)} inputs and {len(signature.user_outputs)} outputs"
        raise TombolaError(f"the module has {found}; a compiled one has one tensor of each")
    constants = {**program.constants, **program.state_dict, **values}
    held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    names: dict[str, Any] = {place: constants[name].detach().clone() for place, name in held.items()}
    graph = Graph(signature.user_inputs[0], signature.user_outputs[0])
    batch = None
    for fx in program.graph.nodes:
        if fx.name == graph.input:
            batch = fx.meta["val"].shape[0]
            graph.shape = _sizes(fx.meta["val"], batch)
        if fx.op != "call_function":
            continue
        given = _by_name(fx)
        arguments = replaced(_refs_of(given), names)
        spread = {key: variances.get(held.get(getattr(value, "name", ""), "")) for key, value in given.items()}
        layer = next((held[n.name] for n in fx.all_input_nodes if held.get(n.name, "").endswith("weight")), "")
        shape = _sizes(fx.meta["val"], batch)
        graph.nodes[fx.name] = Node(fx.name, fx.target, arguments, shape, layer.removesuffix(".weight"), _some(spread))
    return graph


def _some(spread: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """Return copies of the variances that are not all zero."""
    return {key: value.clone() for key, value in spread.items() if value is not None and bool(value.any())}


def _sizes(value: Any, batch: Any) -> tuple[int, ...]:
    """Return the shape of a value, () of one that is no tensor; 0 is the number of examples, -1 another unknown size."""
    if not isinstance(value, Tensor):
        return ()
    return tuple(size if isinstance(size, int) else 0 if str(size) == str(batch) else -1 for size in value.shape)


def _by_name(fx: Any) -> dict[str, Any]:
    """Return the arguments by the names of the schema, defaults too; of a function of Python by their places."""
    if not hasattr(fx.target, "_schema"):
        return {str(i): value for i, value in enumerate(fx.args)}
    schema = fx.target._schema.arguments
    given = {argument.name: value for argument, value in zip(schema, fx.args, strict=False)} | dict(fx.kwargs)
    return {argument.name: given.get(argument.name, argument.default_value) for argument in schema}


def _refs_of(value: Any) -> Any:
    def ref(node: Any) -> Any:
        return Ref(node.name)

    return torch.fx.map_arg(value, ref)


def evaluated(node: Node, values: Mapping[str, Any]) -> Any:
    """Return the value of a node by torch. values: of the nodes that it needs, by name."""
    arguments = replaced(node.arguments, values)
    if node.target in _VIEWS:  # of a value that may lie otherwise in memory than when it was exported
        return arguments["self"].reshape(arguments["size"])
    if not hasattr(node.target, "_schema"):
        return node.target(*arguments.values())
    schema = node.target._schema.arguments
    places = [arguments[argument.name] for argument in schema if not argument.kwarg_only]
    return node.target(*places, **{a.name: arguments[a.name] for a in schema if a.kwarg_only})


def folded(graph: Graph) -> Graph:
    """Return the graph without batch norms (but of inputs that are no images and follow no layer) and without no-ops."""
    names: dict[str, Any] = {}
    norms: set[str] = set()
    made = Graph(graph.input, graph.output, graph.shape)
    users = graph.users()
    for old in graph.nodes.values():
        node = replace(old, arguments=replaced(old.arguments, names))
        first = next(iter(node.arguments.values()), None)
        off = node.target is aten.dropout.default and not node.arguments["train"]
        if off or node.target in _NOTHING or (node.target is operator.getitem and norms.intersection(old.inputs())):
            names[node.name] = first
        elif node.target is operator.getitem and (pool := _max_pool(node, graph)):
            made.nodes[node.name] = pool
        elif node.variances and node.target in _BATCH_NORMS:
            made.nodes[node.name] = node
        elif node.target in _BATCH_NORMS and (before := _layer_before(made, old, first, users)) is not None:
            _fold(before, node)
            norms.add(node.name)
            names[node.name] = first
        elif node.target in _BATCH_NORMS and len(shape := old.shape or users[old.name][0].shape) == 4:
            made.nodes[node.name] = _alone(node, shape)
            norms.add(node.name)
        else:
            made.nodes[node.name] = node
    made.output = names.get(graph.output, Ref(graph.output)).name
    used = {name for node in made.nodes.values() for name in node.inputs()} | {made.output}
    made.nodes = {name: node for name, node in made.nodes.items() if name in used}
    return made


def _max_pool(node: Node, graph: Graph) -> Node | None:
    """Return the pool whose first result, without its indices, a node takes."""
    pool = graph.nodes[node.inputs()[0]]
    if pool.target is not aten.adaptive_max_pool2d.default or node.arguments["1"] != 0:
        return None
    return Node(node.name, adaptive_max_pool, dict(pool.arguments), node.shape)


def adaptive_max_pool(x: Tensor, sizes: list[int]) -> Tensor:
    """Return the largest of each of `sizes` windows, without indices."""
    return F.adaptive_max_pool2d(x, sizes)


def _layer_before(made: Graph, norm: Node, first: Any, users: Mapping[str, list[Node]]) -> Node | None:
    """Return the layer that a batch norm can be folded into: the one before it, if nothing else needs its value."""
    node = made.nodes.get(first.name) if isinstance(first, Ref) else None
    alone = node is not None and multiplies(node) and len(node.shape) in (2, 4) and len(users[norm.inputs()[0]]) == 1
    return node if alone and node is not None and len(users[node.name]) == 1 else None


def multiplies(node: Node) -> bool:
    """Return whether a node is a convolution or linear layer of constant weights."""
    return node.target in (aten.conv2d.default, aten.linear.default) and isinstance(node.arguments["weight"], Tensor)


def _scale_and_shift(arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return what a batch norm by running statistics multiplies by and adds, each [C], computed in float64."""
    mean, var = arguments["running_mean"].double(), arguments["running_var"].double()
    scale = (var + arguments["eps"]).rsqrt()
    if arguments["weight"] is not None:
        scale = scale * arguments["weight"].double()
    shift = -mean * scale
    if arguments["bias"] is not None:
        shift = shift + arguments["bias"].double()
    return scale, shift


def _fold(node: Node, norm: Node) -> None:
    """Fold a batch norm into the layer before it."""
    scale, shift = _scale_and_shift(norm.arguments)
    weight, bias = node.arguments["weight"].double(), node.arguments["bias"]
    added = shift if bias is None else shift + bias.double() * scale
    node.arguments["weight"] = (weight * scale.view(-1, *[1] * (weight.ndim - 1))).float()
    node.arguments["bias"] = added.float()
    for key, value in node.variances.items():
        node.variances[key] = (value.double() * scale.square().view(-1, *[1] * (value.ndim - 1))).float()
    node.norm = _normalised(norm.arguments)


def _normalised(arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return mean and variance that a batch norm gives to its channels, over examples and positions."""
    zeros = torch.zeros_like(arguments["running_var"])
    weight, bias = arguments["weight"], arguments["bias"]
    return zeros if bias is None else bias, zeros + 1 if weight is None else weight.square()


def _alone(node: Node, shape: tuple[int, ...]) -> Node:
    """Return a batch norm of images as a convolution of one weight a channel."""
    scale, shift = _scale_and_shift(node.arguments)
    ones, none = [1, 1], [0, 0]
    arguments = {"input": node.arguments["input"], "weight": scale.float().view(-1, 1, 1, 1), "bias": shift.float()}
    arguments |= {"stride": ones, "padding": none, "dilation": ones, "groups": len(scale)}
    return Node(node.name, aten.conv2d.default, arguments, shape, node.layer, norm=_normalised(node.arguments))
