"""Operations that are linear in a weight and in their input, each as a map with its derivatives.

Estimators that put their noise into an operation's output need no more of it: `RULES` says for each of torch's functions
which map it is, of what input, weight and bias.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


class Operation(Protocol):
    """out = x * w + b, for whatever the product is."""

    @property
    def channel(self) -> int | None:
        """The dimension, of input and output, in which a sign flips (Flipout); None where there is none."""

    @property
    def autocasts(self) -> bool:
        """Whether autocast lowers its precision."""

    def __call__(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor: ...
    def squared(self, x: Tensor) -> Tensor:
        """The input whose product with the weight's variance is the output's variance."""

    def gradients(self, g: Tensor, x: Tensor, w: Tensor, needs: Sequence[bool]) -> Grads:
        """Derivatives of the sum of g * out by x, w and b, as far as `needs` asks for them."""


@dataclass(frozen=True)
class Linear:
    """x [..., inputs], w [outputs, inputs]."""

    channel = -1
    autocasts = True

    def __call__(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return F.linear(x, w, b)

    def squared(self, x: Tensor) -> Tensor:
        return x * x

    def gradients(self, g: Tensor, x: Tensor, w: Tensor, needs: Sequence[bool]) -> Grads:
        flat = g.reshape(-1, g.shape[-1])
        return (
            g @ w if needs[0] else None,
            flat.t() @ x.reshape(-1, x.shape[-1]) if needs[1] else None,
            flat.sum(0) if needs[2] else None,
        )


@dataclass(frozen=True)
class Convolution:
    """x [B, channels, ...], w as of torch's own, transposed or not, of one to three dimensions."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int
    channel = 1
    autocasts = True

    def __call__(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return torch.ops.aten.convolution.default(x, w, b, *self._settings())

    def squared(self, x: Tensor) -> Tensor:
        return x * x

    def gradients(self, g: Tensor, x: Tensor, w: Tensor, needs: Sequence[bool]) -> Grads:
        bias = [g.shape[1]] if needs[2] else None
        return torch.ops.aten.convolution_backward.default(g, x, w, bias, *self._settings(), list(needs))

    def _settings(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.transposed, self.output_padding, self.groups


@dataclass(frozen=True)
class Embedding:
    """x [...] of indices, w [entries, width]: the product of one-hot rows and w."""

    padding_idx: int
    scale_grad_by_freq: bool
    channel = None
    autocasts = False

    def __call__(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return F.embedding(x, w)

    def squared(self, x: Tensor) -> Tensor:
        return x  # a one-hot row is its own square

    def gradients(self, g: Tensor, x: Tensor, w: Tensor, needs: Sequence[bool]) -> Grads:
        if not needs[1]:
            return None, None, None
        dense = torch.ops.aten.embedding_dense_backward.default
        return None, dense(g, x, len(w), self.padding_idx, self.scale_grad_by_freq), None


@dataclass(frozen=True)
class Call:
    """One call of an operation, and what leads from its output to the function's."""

    operation: Operation
    x: Tensor
    w: Tensor
    b: Tensor | None
    after: Callable[[Tensor], Tensor] | None = None


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call | None:
    return Call(Linear(), input, weight, bias) if weight.ndim == 2 else None


def _matmul(input: Tensor, other: Tensor) -> Call | None:
    return Call(Linear(), input, other.t(), None) if other.ndim == 2 else None


def _addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1, out: Tensor | None = None
) -> Call | None:
    plain = input.ndim == 1 and input.shape[0] == mat2.shape[1] and beta == 1 and alpha == 1 and out is None
    return Call(Linear(), mat1, mat2.t(), input) if plain else None


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Call | None:
    if max_norm is not None or sparse:
        return None
    padding = -1 if padding_idx is None else padding_idx % len(weight)
    return Call(Embedding(padding, scale_grad_by_freq), input, weight, None)


def _convolution(dims: int) -> Callable[..., Call | None]:
    def parse(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Call:
        dilation = _each(dilation, dims)
        if padding == "same":
            ends = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
            if any(end % 2 for end in ends):  # torch has the odd one at the end
                input = F.pad(input, [n for end in reversed(ends) for n in (end // 2, end - end // 2)])
                ends = [0] * dims
            padding = [end // 2 for end in ends]
        padding = _each(0 if padding == "valid" else padding, dims)
        operation = Convolution(_each(stride, dims), padding, dilation, False, [0] * dims, groups)
        return _batched(operation, input, weight, bias, dims)

    return parse


def _transposed(dims: int) -> Callable[..., Call | None]:
    def parse(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Call:
        stride, padding, dilation, more = (_each(value, dims) for value in (stride, padding, dilation, output_padding))
        return _batched(Convolution(stride, padding, dilation, True, more, groups), input, weight, bias, dims)

    return parse


def _each(value: int | Sequence[int], dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def _batched(operation: Convolution, x: Tensor, w: Tensor, b: Tensor | None, dims: int) -> Call:
    if x.ndim == dims + 1:  # one example without a batch
        return Call(operation, x.unsqueeze(0), w, b, lambda out: out.squeeze(0))
    return Call(operation, x, w, b)


RULES: dict[Any, Callable[..., Call | None]] = {
    F.linear: _linear,
    torch.addmm: _addmm,
    torch.Tensor.addmm: _addmm,
    torch.mm: _matmul,
    torch.Tensor.mm: _matmul,
    torch.matmul: _matmul,
    torch.Tensor.matmul: _matmul,
    torch.Tensor.__matmul__: _matmul,
    F.embedding: _embedding,
    torch.conv1d: _convolution(1),
    torch.conv2d: _convolution(2),
    torch.conv3d: _convolution(3),
    torch.conv_transpose1d: _transposed(1),
    torch.conv_transpose2d: _transposed(2),
    torch.conv_transpose3d: _transposed(3),
}
"""torch's function -> (its arguments) -> the call; None where these arguments make it another operation."""
