"""How much memory a computation needs at a size that is never run: two small runs, counted and extrapolated.

Memory is linear in the number of examples at every moment, but its peak is not: with few it lies where gradients and
optimiser meet, with many where all activations wait for the backward pass. So the moments are extrapolated one by one.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Counts the storages that are alive of those made within it; the scratch space inside an operation is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        """Bytes that are alive."""
        self.peaks = [0]
        """The most bytes between each two marks."""
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.peaks[-1] = max(self.peaks[-1], self.now)
        return out

    def _count(self, storage: torch.UntypedStorage, bytes_: int | None = None) -> None:
        key, size = storage._cdata, storage.nbytes() if bytes_ is None else bytes_
        if key in self._alive:
            return

        def freed(_: Any) -> None:
            self.now -= size
            self._alive.pop(key, None)

        self.now += size
        self._alive[key] = weakref.ref(storage, freed)

    def ignore(self, *tensors: Any) -> None:
        """Counts nothing for these."""
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), 0)

    def mark(self) -> None:
        """Begins another moment."""
        self.peaks.append(self.now)

    @contextmanager
    def marking(self) -> Iterator["Allocations"]:
        """Counts, and marks where every run has its moments: at the end of each module, and where a tensor is saved for the
        backward pass or used by it."""

        def marked(tensor: Tensor) -> Tensor:
            self.mark()
            return tensor

        hook = register_module_forward_hook(lambda *_: self.mark())
        try:
            with saved_tensors_hooks(marked, marked), self:
                yield self
        finally:
            hook.remove()


@dataclass(frozen=True)
class Peak:
    """Bytes as a line over the number of examples, for each moment: (without examples, for each example)."""

    moments: tuple[tuple[float, float], ...]

    def at(self, examples: int) -> float:
        """The most bytes at any moment."""
        return max(fixed + each * examples for fixed, each in self.moments)

    def of_examples(self, examples: int) -> float:
        """The most bytes that are the examples' own."""
        return max(each * examples for _, each in self.moments)


def peak_of(run: Callable[[int, Allocations], None], sizes: tuple[int, int]) -> Peak:
    """Runs `run(examples, allocations)` at two sizes. Where the two have other moments, the whole peaks make the line."""
    found = []
    for size in sizes:
        with Allocations().marking() as allocations:
            run(size, allocations)
        found.append(allocations.peaks)
    small, large = found
    if len(small) != len(large):
        small, large = [max(small)], [max(large)]
    few, many = sizes
    lines = []
    for low, high in zip(small, large, strict=True):
        each = max(0.0, (high - low) / (many - few)) if many > few else 0.0
        lines.append((high - each * many, each))
    return Peak(tuple(dict.fromkeys(lines)))
