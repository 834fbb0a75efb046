"""Channels of a network that belong together, read off the operations of one forward pass.

Each activation has a shadow of its shape that names the channel of every element: a product of weights gives its outputs
new channels, operations on single elements pass them on, and a sum of two channels makes them one, as at a shortcut. Views
of an activation are the same views of its shadow, and so are views of a parameter of the shadow that numbers its elements.
Channel 0 is fixed: the network's input and output, and all that an operation mixes that is not known here. What is known
wrongly would be found by `units`.

Legend: O output channels of a product, I input channels, T taps of a kernel, C channels of an activation.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_MOVES = {
    *("detach", "alias", "clone", "contiguous", "_to_copy", "lift_fresh", "view", "_unsafe_view", "reshape", "permute"),
    *("transpose", "t", "expand", "squeeze", "unsqueeze", "slice", "select", "split", "split_with_sizes", "unbind", "cat"),
    *("stack", "flip", "roll", "repeat", "movedim"),
}
"""Operations that move elements, or copy them: they do the same to shadows."""
_NORMS = {"native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "miopen_batch_norm"}
_PLANES = {
    *("max_pool1d", "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    *("avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"),
    *("upsample_nearest2d", "upsample_bilinear2d"),
}
"""Operations on each plane [N, C, ...] by itself."""
_MATRICES = {"mm", "addmm", "bmm", "baddbmm"}
_REDUCTIONS = {"mean", "sum", "amax", "amin"}
_SOFTMAX = {"_softmax", "_safe_softmax"}


@dataclass(frozen=True)
class Product:
    """Parameters and the channels that they make and read."""

    places: Tensor
    """Numbers of the elements, int64 [O, I, T]."""
    out: Tensor
    """Channel of each output, int64 [O]."""
    read: Tensor
    """Channel of each input, int64 [I]; 0 of the input of a bias or of a norm's parameters."""
    is_weight: bool
    """False of biases, norms and other parameters of single channels."""


class Tracer(TorchDispatchMode):
    """The mode that follows channels; `number` gives it the parameters before, and `fix` input and output."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []
        self.attended: set[int] = set()
        """Channels that an attention multiplies with one another."""
        self._parents = [0]
        self._channels: dict[Any, tuple[Tensor, Tensor]] = {}  # the tensors too: their memory must not be used again
        self._places: dict[Any, tuple[Tensor, Tensor]] = {}
        self._product_of = torch.empty(0, dtype=torch.int64)  # by number of an element: the product that has it, or -1
        self._numbers = 0

    def number(self, tensor: Tensor, places: Tensor) -> None:
        """Give the elements of a parameter or buffer their numbers, int64 of its shape."""
        self._places[_key(tensor)] = tensor, places
        self._numbers += places.numel()

    @property
    def count(self) -> int:
        """Return the number of channels, with the fixed one."""
        return len(self._parents)

    def fix(self, tensors: Iterable[Tensor]) -> None:
        """Make the channels of inputs or outputs fixed."""
        for tensor in tensors:
            self._join(self._of(tensor), torch.zeros((), dtype=torch.int64))
            self._channels[_key(tensor)] = tensor, torch.zeros(tensor.shape, dtype=torch.int64)

    def roots(self, channels: Tensor) -> Tensor:
        """Return the channel that stands for each one's set, 0 where fixed; of the same shape."""
        return torch.tensor([self._root(c) for c in range(len(self._parents))])[channels]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name, given = func.overloadpacket.__name__, _tensors((args, kwargs))
        results, active = _tensors(out), [t for t in given if _key(t) in self._channels]
        if active:
            found = self._channels_of(func, name, args, kwargs, active, given, results)
            if found is None:
                self.fix([*active, *results])
            for tensor, channels in zip(results, found or [], strict=False):  # a pool returns indices too
                self._channels[_key(tensor)] = tensor, channels
        elif len(given) == 1 and _key(given[0]) in self._places and name in _MOVES:
            moved = _moved(func, args, kwargs, {id(given[0]): self._places[_key(given[0])][1]})
            self._places |= {_key(tensor): (tensor, places) for tensor, places in zip(results, moved, strict=True)}
        return out

    def _channels_of(
        self, func: Any, name: str, args: Any, kwargs: Any, active: list[Tensor], given: list[Tensor], results: list[Tensor]
    ) -> list[Tensor] | None:
        """Return the channels of the results of an operation on activations; None of one that is not known."""
        if name in _MOVES:
            return _moved(func, args, kwargs, {id(t): self._of(t) for t in given})
        if torch.Tag.pointwise in func.tags and len(results) == 1:
            found = self._combined(active, results[0].shape)
            self._beside([t for t in given if _key(t) in self._places and _key(t) not in self._channels], found)
            return [found]
        shape = results[0].shape if results else torch.Size()
        if name == "convolution":
            own = self._convolution(args, shape)
        elif name in _MATRICES:
            own = self._matrices(args, name in ("addmm", "baddbmm"), shape)
        else:
            own = self._reduced(name, args, shape)
        return None if own is None else [own]

    def _reduced(self, name: str, args: Any, shape: torch.Size) -> Tensor | None:
        """Return the channels of an operation on each channel by itself."""
        x = self._of(args[0])
        if name in _NORMS:
            channels = self._alike(x)
            for tensor in args[1:5]:
                self._own(tensor, channels)
            return x
        if name in _PLANES:
            return self._alike(x).view(1, -1, *[1] * (len(shape) - 2)).expand(shape)
        if name in _REDUCTIONS and len(args) > 1 and args[1]:
            return self._constant(x, args[1]).reshape(shape)
        if name in _SOFTMAX:
            self._constant(x, [args[1]])
            return x
        return None

    def _matrices(self, args: Any, adds: bool, shape: torch.Size) -> Tensor | None:
        """Return the channels of a product of matrices, [M, K] by [K, N] or [B, M, K] by [B, K, N]."""
        (added, a, b) = args[:3] if adds else (None, *args[:2])
        is_active = [t is not None and _key(t) in self._channels for t in (added, a, b)]
        if is_active == [False, True, True]:
            first, second = (self._of(t).reshape(-1, *t.shape[-2:]) for t in (a, b))
            return self._attention(first, second).expand(-1, *shape[-2:]).reshape(shape)
        if is_active != [False, True, False] or _key(b) not in self._places or (b.ndim == 3 and len(b) > 1):
            return None
        places = self._places[_key(b)][1].reshape(b.shape[-2:]).T[..., None]
        return self._product(places, self._of(a).reshape(-1, a.shape[-1]), added).expand(shape)

    def _convolution(self, args: Any, shape: torch.Size) -> Tensor | None:
        (x, weight, bias), is_transposed, groups = args[:3], args[6], args[8]
        if is_transposed or _key(x) not in self._channels or _key(weight) not in self._places:
            return None
        places, channels, tail = self._places[_key(weight)][1].flatten(2), self._of(x), (-1, *[1] * (len(shape) - 2))
        if groups == 1:
            return self._product(places, channels, bias).view(1, *tail).expand(shape)
        if not groups == len(places) == x.shape[1]:
            return None
        own = self._alike(channels)  # depthwise: each channel stays one
        self._own(weight, own)
        self._own(bias, own)
        return own.view(1, *tail).expand(shape)

    def _product(self, places: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
        """Note a product of parameters [O, I, T] with channels [N, I, ...]; return those of its outputs, [O]."""
        read = self._alike(x)
        out = torch.arange(len(self._parents), len(self._parents) + len(places))
        self._parents += out.tolist()
        self._note(Product(places, out, read, True))
        self._own(bias, out)
        return out

    def _note(self, product: Product) -> None:
        """Note a product; parameters that are used again make its channels those of before.

        Where they are used otherwise, in part or transposed, all of these channels become fixed.
        """
        if len(self._product_of) < self._numbers:
            self._product_of = torch.full((self._numbers,), -1)
        owners = self._product_of[product.places]
        if not bool((owners >= 0).any()):
            self._product_of[product.places] = len(self.products)
            self.products.append(product)
            return
        known = [self.products[i] for i in owners.unique().tolist() if i >= 0]
        if torch.equal(known[0].places, product.places):
            self._join(known[0].out, product.out)
            self._join(known[0].read, product.read)
        else:
            for each in (*known, product):
                self._join(torch.cat([each.out, each.read]), torch.zeros((), dtype=torch.int64))

    def _attention(self, a: Tensor, b: Tensor) -> Tensor:
        """Join all channels of each product of activations in a batch, a head's, [B, ., .]; return them, [B, 1, 1]."""
        both = torch.cat([a.flatten(1), b.flatten(1)], 1)
        first = both[:, :1]
        self._join(both, first.expand_as(both))
        self.attended |= set(first.flatten().tolist())
        return first[..., None]

    def _combined(self, active: list[Tensor], shape: torch.Size) -> Tensor:
        """Return the channels, expanded to `shape`, of an operation on single elements of activations."""
        result, size = self._of(active[0]), active[0].shape
        for tensor in active[1:]:
            own = self._of(tensor)
            if not bool(result.any()) and not _varies(own, size):
                result, size = own, tensor.shape
            elif bool(own.any()) or _varies(result, tensor.shape):
                result, own = torch.broadcast_tensors(result, own)
                self._join(result, own)
                result = torch.where(result == 0, own, result)
                size = result.shape
        return result.expand(shape)

    def _own(self, parameter: Tensor | None, channels: Tensor) -> None:
        """Note a parameter [C, ...] of channels [C]."""
        if parameter is not None and _key(parameter) in self._places:
            places = self._places[_key(parameter)][1].reshape(len(channels), 1, -1)
            self._note(Product(places, channels, torch.zeros(1, dtype=torch.int64), False))

    def _beside(self, parameters: list[Tensor], channels: Tensor) -> None:
        """Note the elements of parameters, broadcast to channels of any shape, that are of one channel alone."""
        for places in (self._places[_key(p)][1] for p in parameters):
            pairs = torch.stack([places.expand(channels.shape).flatten(), channels.flatten()], 1).unique(dim=0)
            numbers, count = pairs[:, 0].unique(return_counts=True)
            own = pairs[torch.isin(pairs[:, 0], numbers[count == 1])]
            self._note(Product(own[:, :1, None], own[:, 1], torch.zeros(1, dtype=torch.int64), False))

    def _alike(self, channels: Tensor) -> Tensor:
        """Return the channels along dimension 1; those that vary along the others become fixed."""
        return self._constant(channels, [d for d in range(channels.ndim) if d != 1]).flatten()

    def _constant(self, channels: Tensor, dims: list[int]) -> Tensor:
        """Return the channels with `dims` reduced to size 1; those that vary along them become fixed."""
        low, high = channels.amin(dims, keepdim=True), channels.amax(dims, keepdim=True)
        if not torch.equal(low, high):  # of sets that have become one, perhaps
            channels = self.roots(channels)
            low, high = channels.amin(dims, keepdim=True), channels.amax(dims, keepdim=True)
        if bool((mixed := low != high).any()):
            self._join(channels.masked_select(mixed.expand_as(channels)), torch.zeros((), dtype=torch.int64))
        return low.masked_fill(mixed, 0)

    def _of(self, tensor: Tensor) -> Tensor:
        found = self._channels.get(_key(tensor))
        return torch.zeros(tensor.shape, dtype=torch.int64) if found is None else found[1]

    def _join(self, a: Tensor, b: Tensor) -> None:
        """Make each pair of channels one; with 0 it is fixed."""
        pairs = torch.stack([a.flatten(), b.expand(a.shape).flatten()], 1)
        for pair in pairs[pairs[:, 0] != pairs[:, 1]].unique(dim=0).tolist():
            one, other = sorted(map(self._root, pair))
            self._parents[other] = one

    def _root(self, channel: int) -> int:
        while self._parents[channel] != channel:
            self._parents[channel] = channel = self._parents[self._parents[channel]]
        return channel


def _varies(channels: Tensor, shape: torch.Size) -> bool:
    """Return whether channels vary along a dimension in which a tensor of `shape`, broadcast to them, has a size."""
    sizes = ((1,) * channels.ndim + tuple(shape))[-channels.ndim :] if channels.ndim else ()
    return any(size > 1 and bool((channels.narrow(d, 0, 1) != channels).any()) for d, size in enumerate(sizes))


def _moved(func: Any, args: Any, kwargs: Any, shadows: dict[int, Tensor]) -> list[Tensor]:
    """Return the results of the same operation on shadows, by the ids of the tensors that they are of."""
    name = func.overloadpacket.__name__
    args, kwargs = tree_map(lambda leaf: shadows.get(id(leaf), leaf), (args, kwargs))
    if name in ("_to_copy", "clone"):  # a number of an element stays what it is
        return [args[0]]
    if name in ("view", "_unsafe_view"):  # a shadow may lie otherwise in memory
        return [args[0].reshape(args[1])]
    return _tensors(func(*args, **kwargs))


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _key(tensor: Tensor) -> tuple[Any, ...]:
    """Return what two tensors share that are the same elements: autograd may have made another object of one."""
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype
