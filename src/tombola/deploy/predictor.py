"""A compiled ticket.

Legend: B examples.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from tombola.errors import TombolaError

from .graph import Graph
from .lower import lowered
from .program import Program
from .tune import Choice, density_of, layers


@dataclass(frozen=True)
class Layer:
    """One layer of a compiled network."""

    name: str
    shape: tuple[int, ...]
    """Shape of its weight."""
    density: float
    """Share of its weights that are not zero; weights from and to dead channels count as zero."""
    kernel: str
    """`sparse` or `torch`."""
    milliseconds: float
    """Time for one chunk, with what its kernel does besides: sums with a shortcut, ReLU, 2x2 pooling."""


class Predictor:
    """The mean network of a ticket on the kernels chosen for it: `predictor(x)` is its outputs, [B, ...], float32.

    Several threads may call it; they take turns. It uses as many threads as torch did when it was compiled, one a chunk.
    An example's outputs can differ in the last bits between batch sizes, since other kernels sum in another order.
    """

    def __init__(self, graph: Graph, choice: Choice, example: Tensor):
        self.choice = choice
        self._graph, self._example, self._lock = graph, example, Lock()
        self._threads = torch.get_num_threads()
        self._programs: dict[tuple[int, int], Program] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._program(choice.chunk)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs for a float32 CPU tensor [B, ...]. Raises TombolaError for inputs of another kind."""
        self._check(x)
        with self._lock, torch.inference_mode():
            chunk = self.choice.chunk
            if chunk in (0, len(x)):
                return self._program(chunk)(x)
            whole = len(x) // chunk * chunk
            rest = x[whole:]
            # few examples left over: one by one is less work than a chunk that is mostly empty
            single = 1 if 3 * len(rest) <= chunk else chunk
            return torch.cat([*self._run(chunk, x[:whole]), *self._run(single, rest)])

    def layers(self) -> list[Layer]:
        """Return the layers in order, each timed on a chunk of the example."""
        with self._lock, torch.inference_mode():
            chunk = self.choice.chunk or len(self._example)
            took = self._program(self.choice.chunk).seconds(self._example[:chunk], repeats=5)
        rows = []
        for name, node in layers(self._graph).items():
            kernel = "torch" if name in self._in_torch() else "sparse"
            shape = tuple(node.arguments["weight"].shape)
            rows.append(Layer(node.layer or name, shape, density_of(node), kernel, 1e3 * took[name]))
        return rows

    def kernels(self) -> dict[str, int]:
        """Return the number of layers on each kind of kernel, and the examples of a chunk (0: whole batches)."""
        in_torch = len(self._in_torch())
        return {"sparse": len(layers(self._graph)) - in_torch, "torch": in_torch, "chunk": self.choice.chunk}

    def summary(self) -> str:
        """Return the layers as a table: name, shape, density, kernel and milliseconds a chunk."""
        cells = [["layer", "weight", "density", "kernel", "ms"]]
        for row in self.layers():
            shape = "x".join(map(str, row.shape))
            cells.append([row.name, shape, f"{row.density:.2%}", row.kernel, f"{row.milliseconds:.3f}"])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
        chunk = f"chunks of {self.choice.chunk} examples" if self.choice.chunk else "whole batches, all in torch"
        others = ", ".join(sorted(self._torch_operations()))
        return "\n".join([*lines, chunk + (f"; torch computes {others}" if others and self.choice.chunk else "")])

    def _check(self, x: Tensor) -> None:
        expected = list(self._example.shape[1:])
        if list(x.shape[1:]) != expected or x.ndim == 0 or len(x) == 0:
            raise TombolaError(
                f"inputs have the shape {list(x.shape)}; the network takes [B, {', '.join(map(str, expected))}], B from 1"
            )
        if x.dtype != self._example.dtype or x.device.type != "cpu":
            kind = self._example.dtype
            raise TombolaError(f"inputs are {x.dtype} on {x.device}; a compiled network takes {kind} on the CPU")
        # kernels take a maximum as of finite numbers; a finite sum, the quick check, is one of finite values
        if not math.isfinite(x.sum().item()) and not bool(x.isfinite().all()):
            raise TombolaError("inputs have values that are not finite; a compiled network takes finite ones")

    def _program(self, chunk: int, worker: int = 0) -> Program:
        """Return the program of a worker, which has buffers of its own."""
        if (chunk, worker) not in self._programs:
            self._programs[chunk, worker] = lowered(self._graph, chunk, self.choice.dense)
        return self._programs[chunk, worker]

    def _run(self, chunk: int, x: Tensor) -> list[Tensor]:
        """Return the outputs of each chunk of x, in order."""
        if len(x) == 0:
            return []
        parts = list(x.split(chunk))
        workers = min(self._threads, len(parts))
        if workers < 2:
            return _chunks(self._program(chunk), parts)
        programs = [self._program(chunk, worker) for worker in range(workers)]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads)
        jobs = [self._pool.submit(_chunks, program, parts[i::workers]) for i, program in enumerate(programs)]
        found: list[Tensor] = [x] * len(parts)
        for i, job in enumerate(jobs):
            found[i::workers] = job.result()
        return found

    def _in_torch(self) -> set[str]:
        return self._program(self.choice.chunk).in_torch & layers(self._graph).keys()

    def _torch_operations(self) -> set[str]:
        """Return the names of operations that no sparse kernel has."""
        names = self._program(self.choice.chunk).in_torch - layers(self._graph).keys()
        targets = (self._graph.nodes[name].target for name in names if self._graph.nodes[name].shape)
        return {str(getattr(target, "_schema", target)).partition("(")[0].removeprefix("aten::") for target in targets}


def _chunks(program: Program, parts: list[Tensor]) -> list[Tensor]:
    with torch.inference_mode():
        return [program(part) for part in parts]
