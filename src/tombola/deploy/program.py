"""A compiled network for chunks of N examples: tables of sparse kernels, and operations that torch runs between them."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .blocks import Block
from .graph import Node, evaluated
from .kernels import FIELDS, OPERATIONS, kernel, run

Values = dict[str, Any]
"""Values of nodes by name, as torch has them."""


@dataclass(frozen=True)
class Step:
    """Work of torch for one node."""

    name: str
    call: Callable[[Values], None]

    def __call__(self, values: Values) -> None:
        self.call(values)

    def parts(self) -> "list[Step]":
        return [self]


@dataclass(frozen=True)
class Table:
    """Operations of the sparse kernels in order, with the node of each."""

    names: list[str]
    rows: np.ndarray

    def __call__(self, values: Values) -> None:
        run(self.rows)

    def parts(self) -> list[Step]:
        """Return each operation as a step."""
        return [Step(name, partial(_run_row, self.rows[i : i + 1])) for i, name in enumerate(self.names)]


def _run_row(row: np.ndarray, values: Values) -> None:
    run(row)


@dataclass
class Program:
    """Steps that write into its own blocks: it runs one chunk at a time.

    chunk: examples of a chunk; 0 where torch does all, for any number.
    """

    chunk: int
    input: str
    output: str
    steps: list[Step | Table] = field(default_factory=list)
    held: list[Tensor] = field(default_factory=list)
    """Tensors whose addresses stand in tables."""
    rows: list[tuple[str, list[int]]] = field(default_factory=list)
    """Operations of the table that grows at the end of the steps, with their nodes."""

    in_torch: set[str] = field(default_factory=set)
    """Nodes that torch computes."""

    def operation(self, kind: str, name: str, **fields: int | Tensor) -> None:
        """Add an operation of `kernels.OPERATIONS` for a node; a tensor stands for the address of its values."""
        names = OPERATIONS[kind].split()
        if fields.keys() != set(names):
            raise ValueError(f"{kind} has the fields {', '.join(names)}, not {', '.join(fields)}")
        row = [kernel(kind)]
        for field_ in names:
            value = fields[field_]
            if isinstance(value, Tensor):
                self.held.append(value)
                value = value.data_ptr()
            row.append(int(value))
        self.rows.append((name, row + [0] * (FIELDS - len(row))))

    def step(self, name: str, call: Callable[[Values], None]) -> None:
        """Add a step of torch, after the operations added before."""
        self.close()
        self.steps.append(Step(name, call))

    def close(self) -> None:
        """End the table that grows."""
        if self.rows:
            names, rows = zip(*self.rows, strict=True)
            self.steps.append(Table(list(names), np.array(rows, np.int64)))
            self.rows = []

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs [B, ...] of at most N examples x [B, ...], in memory of their own."""
        values, count = self._values(x), len(x)
        for step in self.steps:
            step(values)
        out: Tensor = values[self.output]
        return out[:count] if count < self.chunk else out

    def seconds(self, x: Tensor, repeats: int = 3) -> dict[str, float]:
        """Return the least seconds that each node took in `repeats` passes over a chunk."""
        parts = [part for step in self.steps for part in step.parts()]
        least: dict[str, float] = {}
        for _ in range(repeats):
            values, took = self._values(x), Counter[str]()
            for part in parts:
                began = time.perf_counter()
                part(values)
                took[part.name] += time.perf_counter() - began  # type: ignore[assignment]
            least = {name: min(seconds, least.get(name, seconds)) for name, seconds in took.items()}
        return least

    def _values(self, x: Tensor) -> Values:
        missing = self.chunk - len(x)
        return {self.input: torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing > 0 else x}


def load(name: str, block: Block, shape: tuple[int, ...]) -> Callable[[Values], None]:
    """Return the step that copies a value of torch into its block."""
    view = block.view(shape)

    def step(values: Values) -> None:
        view.copy_(values[name])

    return step


def store(name: str, block: Block, shape: tuple[int, ...]) -> Callable[[Values], None]:
    """Return the step that copies a block into a value of torch."""
    view = block.view(shape)

    def step(values: Values) -> None:
        values[name] = view.clone(memory_format=torch.contiguous_format)

    return step


def compute(node: Node) -> Callable[[Values], None]:
    """Return the step in which torch computes a node."""

    def step(values: Values) -> None:
        values[node.name] = evaluated(node, values)

    return step
