"""Plain attributes of a module: what its forward passes change of them, and how they come back."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .roles import is_dense, is_expanded

_OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes that every module has: parameters, buffers, parts and hooks."""


@contextmanager
def attributes_kept(module: nn.Module) -> Iterator[None]:
    """Give a module the plain attributes back that its forward passes replace or write to.

    Weights that hooks make, caches, counters; tensors, arrays, lists, dictionaries, sets and generators with their contents.
    A binding alone leaves them: in a loop of the caller's own it lasts for one step, and they go on to the next one.
    """
    saved = [(vars(m), dict(vars(m))) for m in module.modules() if not isinstance(m, torch.jit.ScriptModule)]
    undo: list[Callable[[], object]] = []
    seen: set[int] = set()
    for own, _ in saved:
        for name, value in own.items():
            if name not in _OF_TORCH:
                _remember(value, undo, seen)
    try:
        yield
    finally:
        for own, before in saved:
            for name in own.keys() - before.keys():
                del own[name]
            own.update(before)
        with torch.no_grad():
            for restore in undo:
                restore()


def _remember(value: Any, undo: list[Callable[[], object]], seen: set[int]) -> None:
    """Add to `undo` what gives `value` its present contents back, if it is of a kind that can be written to."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        skipped = isinstance(value, nn.Parameter) or value.is_inference() or not is_dense(value)
        if not skipped and not is_expanded(value):
            undo.append(_of_tensor(value))
    elif isinstance(value, torch.Generator):
        state = value.get_state()
        undo.append(lambda: value.set_state(state))
    elif hasattr(value, "__array_interface__") and hasattr(value, "flags"):  # numpy's, without importing it
        if value.flags.writeable:
            array = value.copy()
            undo.append(lambda: value.__setitem__(..., array))
    elif isinstance(value, dict | list | set | deque):
        items = value.copy()
        undo.append(lambda: _refill(value, items))
    if isinstance(value, dict | list | tuple | deque):
        for part in value.values() if isinstance(value, dict) else value:
            _remember(part, undo, seen)


def _of_tensor(value: Tensor) -> Callable[[], object]:
    data, values = value.data, value.detach().clone()
    version = value._version

    def restore() -> None:
        if value._version != version:
            value.data = data
            data.copy_(values)

    return restore


def _refill(value: Any, items: Any) -> None:
    value.clear()
    (value.update if isinstance(value, dict | set) else value.extend)(items)
