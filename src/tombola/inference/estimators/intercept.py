"""The interception of every use that a forward pass makes of a random weight, in an unmodified module.

A weight is identified by its memory, as a view of the flat buffer `theta`, so splits, transposes and ties change nothing.
The same view of another flat buffer (std, noise, a gradient) follows from shape, strides and offset.

Legend: n random parameters, the first of the flat order.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from tombola.errors import TombolaError
from tombola.posterior.layout import Layout

from .operations import RULES, Call


class Noisy(Protocol):
    """The part of an estimator that an interception calls."""

    def apply(self, call: Call) -> Tensor | None:
        """Return the output of an operation whose weight is random, with noise; None without a rule for the operation."""

    def sampled(self, weight: Tensor, used_by: str | None) -> Tensor:
        """Return the weight sample of a random weight, where no rule applies. used_by: the function, for a warning."""


class FlatWeights:
    """The random parameters in `theta` [P] that have any variance: a wholly pruned one is not in it."""

    def __init__(self, layout: Layout, theta: Tensor, mask: Tensor):
        self._storage = theta.untyped_storage().data_ptr()
        self.segments = [s for s in layout.segments if s.random]
        self.alive = [bool(mask[s.slice].any()) for s in self.segments]
        self._starts = [s.start for s in self.segments]
        self._stop = layout.random_numel

    def __contains__(self, tensor: Tensor) -> bool:
        return self.shares_memory(tensor) and tensor.storage_offset() < self._stop and self.alive[self.index(tensor)]

    def shares_memory(self, tensor: Tensor) -> bool:
        try:
            return tensor.untyped_storage().data_ptr() == self._storage
        except (NotImplementedError, RuntimeError):  # sparse tensors, and those of tracers and vmap, have no storage
            return False

    def index(self, tensor: Tensor) -> int:
        """Return the index of the random parameter that the tensor is a view of."""
        return bisect_right(self._starts, tensor.storage_offset()) - 1

    def name(self, tensor: Tensor) -> str:
        return self.segments[self.index(tensor)].name


class Interception(TorchFunctionMode):
    """The torch function mode that hands each use of a random weight to the estimator; everything else runs as ever.

    A call with a random weight is, in this order: a view (run), an in-place change of the weight (refused), an operation
    with a rule (`Noisy.apply`), a function of torch written in Python (re-entered, so that its parts are intercepted), or
    anything else (run on weight samples in place of the weights).
    """

    def __init__(self, weights: FlatWeights, noisy: Noisy):
        super().__init__()
        self._weights, self._noisy = weights, noisy
        self._grad = torch.is_grad_enabled()
        self._entered: set[Any] = set()
        self.seen: set[int] = set()
        """Indices of the random parameters that were intercepted where gradients are recorded."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = self._first_weight(args)
        if found is None and kwargs:
            found = self._first_weight(kwargs.values())
        if found is None:
            return func(*args, **kwargs)
        if func.__name__ in _VIEWS:
            out = func(*args, **kwargs)
            # a view of the mean waits for the operation that uses it; `to`, `reshape`, `__getitem__` may have copied it
            if all(self._weights.shares_memory(t) for t in tree_leaves(out) if isinstance(t, Tensor)):
                return out
        if func.__name__.endswith("_") and not func.__name__.endswith("__") and args and args[0] is found:
            raise TombolaError(
                f"{func.__name__} changes parameter {self._weights.name(found)!r} in the forward pass, where it holds the "
                "mean and not the weights; use estimator weight_sample"
            )
        call = RULES[func](*args, **kwargs) if func in RULES else None
        if call is not None and (out := self._ruled(call)) is not None:
            return call.after(out) if call.after else out
        if isinstance(func, FunctionType) and func not in self._entered:
            return self._inside(func, args, kwargs)
        # no warning for the random bias of a deterministic weight: rules are about random weights
        used_by = None if call is not None and call.w not in self._weights else func.__name__
        args, kwargs = tree_map_only(Tensor, lambda t: self._sampled(t, used_by), (args, kwargs))
        return func(*args, **kwargs)

    def _first_weight(self, values: Iterable[Any]) -> Tensor | None:
        for value in values:  # a hot loop, of every call of every function: `tree_leaves` would cost more
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
                f"parameter {self._weights.name(call.w)!r} is used under no_grad (by reentrant "
                "checkpointing?), where its noise would not be that of the backward pass; use estimator weight_sample"
            )
        if call.x in self._weights:  # a product of two random weights: noise of the output covers only one of them
            call = replace(call, x=self._sampled(call.x, type(call.operation).__name__))
        out = self._noisy.apply(call)
        if out is not None:
            self.seen.update(self._weights.index(t) for t in (call.w, call.b) if t is not None and t in self._weights)
        return out

    def _inside(self, func: FunctionType, args: Any, kwargs: Any) -> Any:
        """Run a function of torch that is written in Python (attention) under this mode, which intercepts its parts."""
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

    def _without_graph(self) -> bool:
        """Return whether gradients are off here, but were on when the forward pass began."""
        return self._grad and not torch.is_grad_enabled()


@cache
def _unchecked(func: FunctionType) -> FunctionType:
    """Return a copy of the function that does not look for function modes.

    The original begins with `if has_torch_function(...): return handle_torch_function(...)`, which under this mode would
    call `__torch_function__` with the same function again instead of running its body.
    """
    never: dict[str, Callable[..., bool]] = {
        name: lambda *_: False for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    }
    copy = FunctionType(func.__code__, {**func.__globals__, **never}, func.__name__, func.__defaults__, func.__closure__)
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy


def _dense(tensor: Tensor) -> bool:
    """Return whether no two elements share memory; an expanded weight's gradient has several places for one number."""
    return all(stride != 0 or size <= 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


_SHOWN = (
    "__get__ __set__ __getitem__ __len__ __hash__ as_strided chunk contiguous data_ptr detach dim element_size expand "
    "expand_as flatten get_device is_contiguous is_floating_point is_complex is_shared ndimension movedim narrow nelement "
    "numel permute register_hook requires_grad_ reshape reshape_as select size split split_with_sizes squeeze "
    "storage_offset stride swapaxes swapdims t tensor_split to transpose type type_as unbind unflatten unsafe_chunk "
    "unsafe_split unsqueeze untyped_storage view view_as"
)
_VIEWS = frozenset(_SHOWN.split())
"""Names of functions that do not compute with a tensor, if the tensors that they return share its memory."""
