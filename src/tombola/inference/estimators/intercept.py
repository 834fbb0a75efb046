"""Seeing every use that a forward pass makes of a random weight, in an unmodified module.

A weight is known by its memory: every view of the flat buffer, whatever splits, transposes or ties it. So the same view of
another flat buffer (std, noise, a gradient) is found from its shape, strides and offset alone.

Legend: n random parameters, the first of the flat order.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tombola.errors import TombolaError
from tombola.posterior.layout import Layout

from .operations import RULES, Call


class Noisy(Protocol):
    """What an estimator does with a random weight."""

    def apply(self, call: Call) -> Tensor | None:
        """The output of an operation whose weight is random, with noise; None where it has no rule for this operation."""

    def sampled(self, weight: Tensor, used_by: str | None) -> Tensor:
        """The weight sample of a random weight, where no rule applies. used_by: the function, if that is to be said."""


class FlatWeights:
    """The random parameters in `theta` [P] that have any variance: not those that are pruned altogether."""

    def __init__(self, layout: Layout, theta: Tensor, mask: Tensor):
        self._storage = theta.untyped_storage().data_ptr()
        random = [s for s in layout.segments if s.random]
        self.names = [s.name for s in random]
        self.slices = [s.slice for s in random]
        self._starts = [s.start for s in random]
        self._stop = random[-1].slice.stop if random else 0
        self.alive = [bool(mask[s.slice].any()) for s in random]

    def __contains__(self, tensor: Tensor) -> bool:
        return self.shares_memory(tensor) and tensor.storage_offset() < self._stop and self.alive[self.index(tensor)]

    def shares_memory(self, tensor: Tensor) -> bool:
        try:
            return tensor.untyped_storage().data_ptr() == self._storage
        except (NotImplementedError, RuntimeError):  # sparse ones, and those of tracers and vmap, have none
            return False

    def index(self, tensor: Tensor) -> int:
        """Which of the random parameters it is, or is a view of."""
        return bisect_right(self._starts, tensor.storage_offset()) - 1


class Interception(TorchFunctionMode):
    """Within it, what uses random weights goes to the estimator; everything else runs as ever."""

    def __init__(self, weights: FlatWeights, noisy: Noisy):
        super().__init__()
        self._weights, self._noisy = weights, noisy
        self._grad = torch.is_grad_enabled()
        self._entered: set[Any] = set()
        self.seen: set[int] = set()
        """The random parameters that were met where gradients are recorded."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = self._first_weight(args)
        if found is None and kwargs:
            found = self._first_weight(kwargs.values())
        if found is None:
            return func(*args, **kwargs)
        if func.__name__ in _VIEWS:
            out = func(*args, **kwargs)
            if all(self._weights.shares_memory(t) for t in _tensors(out)):
                return out
        if func.__name__.endswith("_") and not func.__name__.endswith("__") and args and args[0] is found:
            raise TombolaError(
                f"{func.__name__} changes parameter {self._name(found)!r} in the forward pass, where it holds the mean and "
                "not the weights; use estimator weight_sample"
            )
        call = RULES[func](*args, **kwargs) if func in RULES else None
        if call is not None and (out := self._ruled(call)) is not None:
            return call.after(out) if call.after else out
        if isinstance(func, FunctionType) and func not in self._entered:
            return self._inside(func, args, kwargs)
        used_by = None if call is not None and call.w not in self._weights else func.__name__
        args, kwargs = _replaced((args, kwargs), lambda t: self._sampled(t, used_by))
        return func(*args, **kwargs)

    def _first_weight(self, values: Iterable[Any]) -> Tensor | None:
        for value in values:  # of every call of every function: in a small network this is what an interception costs
            if isinstance(value, Tensor):
                if value in self._weights:
                    return value
            elif isinstance(value, tuple | list | dict):
                inner = self._first_weight(value.values() if isinstance(value, dict) else value)
                if inner is not None:
                    return inner
        return None

    def _ruled(self, call: Call) -> Tensor | None:
        if call.w not in self._weights or not _dense(call.w):
            return None
        if self._without_graph():
            raise TombolaError(
                f"parameter {self._name(call.w)!r} is used under no_grad (by reentrant "
                "checkpointing?), where its noise would not be that of the backward pass; use estimator weight_sample"
            )
        if call.x in self._weights:
            call = Call(call.operation, self._sampled(call.x, type(call.operation).__name__), call.w, call.b, call.after)
        out = self._noisy.apply(call)
        if out is not None:
            self.seen.update(self._weights.index(t) for t in (call.w, call.b) if t is not None and t in self._weights)
        return out

    def _inside(self, func: FunctionType, args: Any, kwargs: Any) -> Any:
        """Runs a function of torch that is itself written in Python (attention), so that its parts are seen."""
        self._entered.add(func)
        try:
            with self:
                return _unchecked(func)(*args, **kwargs)
        finally:
            self._entered.remove(func)

    def _sampled(self, tensor: Tensor, used_by: str | None) -> Tensor:
        if tensor not in self._weights:
            return tensor
        if not self._without_graph():
            self.seen.add(self._weights.index(tensor))
        return self._noisy.sampled(tensor, used_by)

    def _name(self, tensor: Tensor) -> str:
        return self._weights.names[self._weights.index(tensor)]

    def _without_graph(self) -> bool:
        return self._grad and not torch.is_grad_enabled()


@cache
def _unchecked(func: FunctionType) -> FunctionType:
    """The function without its own look for modes, which would lead back to where it was called from."""
    never: dict[str, Callable[..., bool]] = {
        name: lambda *_: False for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    }
    copy = FunctionType(func.__code__, {**func.__globals__, **never}, func.__name__, func.__defaults__, func.__closure__)
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _replaced(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_replaced(part, change) for part in value)
    if type(value) is dict:
        return {name: _replaced(part, change) for name, part in value.items()}
    return value


def _dense(tensor: Tensor) -> bool:
    return all(stride != 0 or size <= 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


_SHOWN = (
    "__get__ __set__ __getitem__ __len__ __hash__ as_strided chunk contiguous data_ptr detach dim element_size expand "
    "expand_as flatten get_device is_contiguous is_floating_point is_complex is_shared ndimension movedim narrow nelement "
    "numel permute register_hook requires_grad_ reshape reshape_as select size split split_with_sizes squeeze "
    "storage_offset stride swapaxes swapdims t tensor_split to transpose type type_as unbind unflatten unsafe_chunk "
    "unsafe_split unsqueeze untyped_storage view view_as"
)
_VIEWS = frozenset(_SHOWN.split())
"""Names of functions that show a tensor and do not compute with it, if what they return shares its memory."""
