"""Choice of kernels by measurement: which layers torch computes, and how many examples a chunk has."""

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import torch
from torch import Tensor

from tombola.data.cache import root

from .chains import window_of
from .graph import Graph, Node, multiplies
from .lower import lowered
from .program import Program

FORMAT = 1
"""Version of the kernels and of the choice: when it is raised, older choices are not read."""

_DENSITY = 0.03
"""Share of nonzeros below which a layer is not tried in torch beside sparse neighbours; no dense kernel is near there."""
_SHARE = 0.03
"""Share of the whole time below which a layer is not tried either."""
_SECONDS = 0.8
"""Time after which a comparison of candidates ends, once each had three turns."""
_ROUNDS = 50


@dataclass(frozen=True)
class Choice:
    """Examples of a chunk (0: any number, all in torch), and the nodes of the layers that torch computes."""

    chunk: int
    dense: tuple[str, ...]


def choose(graph: Graph, example: Tensor, kernels: str) -> Choice:
    """Return the fastest choice for the example's batch on this machine: the one in the cache, or as now measured.

    kernels: `measured`; `sparse` or `dense` for one kind throughout, where the operations allow it.
    """
    every = tuple(layers(graph))
    if kernels == "dense":
        return Choice(0, every)
    chunks = chunks_for(graph, len(example))
    if kernels == "sparse":
        return Choice(chunks[-1], ())
    path = root() / "deploy" / f"{_key(graph, example)}.json"
    if (found := _read(path, every)) is not None:
        return found
    choice = _measured(graph, example, chunks, every)
    _write(path, choice)
    return choice


def layers(graph: Graph) -> dict[str, Node]:
    """Return the layers by name of their node."""
    return {node.name: node for node in graph.nodes.values() if multiplies(node)}


def density_of(node: Node) -> float:
    """Return the share of a layer's weights that are not zero."""
    weight: Tensor = node.arguments["weight"]
    return int(weight.count_nonzero()) / weight.numel()


def chunks_for(graph: Graph, batch: int) -> list[int]:
    """Return the sizes of chunks to try: 1 for a batch of one, else whole vectors, more where values have no positions."""
    if batch == 1:
        return [1]
    large = [32, 64, 128] if all(len(node.shape) == 2 for node in layers(graph).values()) else []
    return [size for size in (8, 16, *large) if size == 8 or size <= batch]


def _measured(graph: Graph, example: Tensor, chunks: list[int], every: tuple[str, ...]) -> Choice:
    candidates = {Choice(0, every): lowered(graph, 0, every)}
    candidates |= {Choice(size, ()): lowered(graph, size, ()) for size in chunks}
    best = _fastest(candidates, example)
    if best.chunk and (dense := _better_dense(graph, candidates[best], example[: best.chunk])):
        mixed = Choice(best.chunk, dense)
        kept = {choice: candidates[choice] for choice in (best, Choice(0, every))}
        best = _fastest({**kept, mixed: lowered(graph, mixed.chunk, mixed.dense)}, example)
    return best


def in_chunks(program: Program, x: Tensor) -> Tensor:
    """Return the outputs of a batch of any size."""
    if program.chunk == 0:
        return program(x)
    return torch.cat([program(part) for part in x.split(program.chunk)])


def _fastest(candidates: Mapping[Choice, Program], example: Tensor) -> Choice:
    """Return the choice of the least median time; all take turns."""
    calls: dict[Choice, Callable[[], Tensor]] = {
        choice: lambda program=program: in_chunks(program, example)  # type: ignore[misc]
        for choice, program in candidates.items()
    }
    times: dict[Choice, list[float]] = {choice: [] for choice in calls}
    for call in calls.values():  # buffers touched, oneDNN's code made
        call()
    began = time.perf_counter()
    for round_ in range(_ROUNDS):
        if round_ >= 3 and time.perf_counter() - began > _SECONDS:
            break
        for choice, call in calls.items():
            start = time.perf_counter()
            call()
            times[choice].append(time.perf_counter() - start)
    return min(times, key=lambda choice: statistics.median(times[choice]))


def _better_dense(graph: Graph, program: Program, x: Tensor) -> tuple[str, ...]:
    """Return the layers that torch computes faster than the sparse kernel, copies between the layouts included."""
    sparse, faster = program.seconds(x), []
    total = sum(sparse.values())
    for name, node in layers(graph).items():
        if density_of(node) < _DENSITY or sparse[name] < _SHARE * total or window_of(graph, node) is None:
            continue
        alone = lowered(graph, program.chunk, (name,)).seconds(x)
        copies = {n: alone.get(n, 0.0) - sparse.get(n, 0.0) for n in alone if n != name}
        if alone[name] + max(sum(copies.values()), 0.0) < sparse[name]:
            faster.append(name)
    return tuple(faster)


def fingerprint() -> list[str]:
    """Return what a choice depends on beside the network: processor, its instructions, threads, versions."""
    features = ",".join(sorted(name for name, has in llvm.get_host_cpu_features().items() if has))
    return [llvm.get_host_cpu_name(), features, str(torch.get_num_threads()), torch.__version__, numba.__version__]


def _key(graph: Graph, example: Tensor) -> str:
    return hashlib.sha256(json.dumps([FORMAT, *fingerprint(), list(_signature(graph, example))]).encode()).hexdigest()[:24]


def _signature(graph: Graph, example: Tensor) -> Iterator[Any]:
    yield list(example.shape)
    for node in graph.nodes.values():
        yield [node.name, str(node.target), list(node.shape), node.inputs()]
        if multiplies(node):
            weight = node.arguments["weight"]
            plain = {k: v for k, v in node.arguments.items() if k in ("stride", "padding", "dilation", "groups")}
            yield [list(weight.shape), int(weight.count_nonzero()), plain]


def _read(path: Path, every: tuple[str, ...]) -> Choice | None:
    """Return the choice in a file; None if it is missing or of no use, as a file half written is."""
    try:
        found = json.loads(path.read_text())
        choice = Choice(int(found["chunk"]), tuple(found["dense"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return choice if choice.chunk >= 0 and set(choice.dense) <= set(every) else None


def _write(path: Path, choice: Choice) -> None:
    """Keep the choice, if the folder can be written; without it the next process measures anew."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text(json.dumps(asdict(choice)))
        aside.replace(path)
    except OSError:
        return
