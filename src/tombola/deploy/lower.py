"""From the graph to a program: each operation as kernels on blocks where a rule has them, and in torch elsewhere."""

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from .builder import Builder
from .chains import Chain, chains_of, fits, inside, sizes_of, source_of, window_of
from .dead import shape_of
from .graph import Graph, Node, aten, multiplies
from .program import Program, Values, compute
from .rules import RULES, emit_chain


def lowered(graph: Graph, chunk: int, dense: Collection[str]) -> Program:
    """Return the program for chunks of `chunk` examples; torch computes the layers `dense`, by node, and what has no rule.

    chunk: 0 is any number, where all layers are `dense`.
    """
    program = Program(chunk, graph.input, graph.output)
    chains = chains_of(graph, dense)
    builder = Builder(graph, program, {chain.last.name: chain for chain in chains}, torch={graph.input})
    hidden = {name for chain in chains for name in inside(graph, chain)}
    for chain in chains:
        _note_pads(builder, chain)
    for node in graph.nodes.values():
        if node.name in hidden:
            continue
        if node.name in builder.chains:
            emit_chain(builder, builder.chains[node.name])
        elif not _by_rule(builder, node):
            _in_torch(builder, node)
    builder.in_torch(graph.output)
    program.close()
    program.held.extend(block.buffer for block in builder.blocks.values())
    return program


def _by_rule(builder: Builder, node: Node) -> bool:
    """Add a node that reads blocks alone, by its rule."""
    names = [name for name in node.inputs() if shape_of(builder.graph, name)]  # not sizes
    ready = bool(names) and all(name in builder.blocks for name in names)
    rule = RULES.get(node.target) if ready and fits(node.shape) else None
    return rule is not None and rule(builder, node)


def _in_torch(builder: Builder, node: Node) -> None:
    program, inputs = builder.program, node.inputs()
    if (
        program.chunk
        and node.target is aten.sym_size.int
        and node.arguments["dim"] == 0
        and shape_of(builder.graph, inputs[0])[:1] == (0,)
    ):
        program.step(node.name, partial(_set, node.name, program.chunk))
    else:
        for name in inputs:
            builder.in_torch(name)
        node = node.apart or node
        if multiplies(node) and (weight := node.arguments["weight"]).ndim == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
            node = replace(node, arguments=node.arguments | {"weight": weight})
        program.step(node.name, compute(node))
        program.in_torch.add(node.name)
    builder.torch.add(node.name)


def _set(name: str, value: Any, values: Values) -> None:
    values[name] = value


def _note_pads(builder: Builder, chain: Chain) -> None:
    found = window_of(builder.graph, chain.layer)
    assert found is not None
    window, ref = found[0], source_of(builder.graph, chain.layer)
    _, height, width = sizes_of(shape_of(builder.graph, ref.name))
    key = ref.name, window.stride[0]
    builder.pads[key] = max(builder.pads.get(key, 0), window.pad(height, width))
