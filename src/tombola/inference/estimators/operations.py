"""Operations that are linear in their input and in their weight, and the torch functions that are one.

`RULES` parses a call of a torch function into an operation with its input, weight and bias; estimators that put noise into
outputs need no more of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


class Operation:
    """f(x, w, b) = x * w + b for a bilinear product."""

    channel: ClassVar[int | None] = None
    """The dimension of channels in input and output, each of which has a sign (Flipout); None where there is none."""
    autocasts: ClassVar[bool] = True
    """True for an operation whose precision autocast lowers."""

    def __call__(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        raise NotImplementedError

    def scaled(self, x: Tensor, a: Tensor) -> Tensor:
        """Return the input times `a`, element by element."""
        return x * a

    def gradients(self, g: Tensor, x: Tensor, w: Tensor, needs: Sequence[bool]) -> Grads:
        """Return the derivatives of sum(g * f(x, w, b)) by x, w and b; None where `needs` is false."""
        raise NotImplementedError


class Linear(Operation):
    """x [..., inputs], w [outputs, inputs]."""

    channel = -1

    def __call__(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return F.linear(x, w, b)

    def gradients(self, g: Tensor, x: Tensor, w: Tensor, needs: Sequence[bool]) -> Grads:
        flat = g.reshape(-1, g.shape[-1])
        return (
            g @ w if needs[0] else None,
            flat.t() @ x.reshape(-1, x.shape[-1]) if needs[1] else None,
            flat.sum(0) if needs[2] else None,
        )


@dataclass(frozen=True)
class Convolution(Operation):
    """x [B, channels, ...], w as torch has it, transposed or not, of one to three dimensions."""

    options: tuple[Any, ...]
    """stride, padding, dilation, transposed, output_padding, groups: the last arguments of aten::convolution."""
    channel = 1

    def __call__(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return torch.ops.aten.convolution.default(x, w, b, *self.options)

    def gradients(self, g: Tensor, x: Tensor, w: Tensor, needs: Sequence[bool]) -> Grads:
        bias = [g.shape[1]] if needs[2] else None
        return torch.ops.aten.convolution_backward.default(g, x, w, bias, *self.options, list(needs))


@dataclass(frozen=True)
class Embedding(Operation):
    """x [...] of indices, w [entries, width]: the product of one-hot rows and w."""

    padding_idx: int
    scale_grad_by_freq: bool
    autocasts = False

    def __call__(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return F.embedding(x, w)

    def scaled(self, x: Tensor, a: Tensor) -> Tensor:
        return x  # scaled by itself alone (local reparameterisation): a one-hot row is its own square

    def gradients(self, g: Tensor, x: Tensor, w: Tensor, needs: Sequence[bool]) -> Grads:
        if not needs[1]:
            return None, None, None
        dense = torch.ops.aten.embedding_dense_backward.default
        return None, dense(g, x, len(w), self.padding_idx, self.scale_grad_by_freq), None


@dataclass(frozen=True)
class Call:
    """One call of a torch function as an operation."""

    operation: Operation
    x: Tensor
    w: Tensor
    b: Tensor | None
    after: Callable[[Tensor], Tensor] | None = None
    """The operation's output -> the function's; None where they are the same."""


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


def _convolution(
    dims: int,
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
        if any(end % 2 for end in ends):  # torch pads the odd one at the end, aten::convolution both ends alike
            input = F.pad(input, [n for end in reversed(ends) for n in (end // 2, end - end // 2)])
            ends = [0] * dims
        padding = [end // 2 for end in ends]
    padding = _each(0 if padding == "valid" else padding, dims)
    return _batched((_each(stride, dims), padding, dilation, False, [0] * dims, groups), input, weight, bias, dims)


def _transposed(
    dims: int,
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
    return _batched((stride, padding, dilation, True, more, groups), input, weight, bias, dims)


def _each(value: int | Sequence[int], dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def _batched(options: tuple[Any, ...], x: Tensor, w: Tensor, b: Tensor | None, dims: int) -> Call:
    if x.ndim == dims + 1:  # one example without a batch, which aten::convolution does not take
        return Call(Convolution(options), x.unsqueeze(0), w, b, lambda out: out.squeeze(0))
    return Call(Convolution(options), x, w, b)


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
    torch.conv1d: partial(_convolution, 1),
    torch.conv2d: partial(_convolution, 2),
    torch.conv3d: partial(_convolution, 3),
    torch.conv_transpose1d: partial(_transposed, 1),
    torch.conv_transpose2d: partial(_transposed, 2),
    torch.conv_transpose3d: partial(_transposed, 3),
}
"""torch's function -> (its arguments) -> the call; None where the arguments make it another operation.

A function has a line for each name by which a function mode gets it: `x @ w` comes as `Tensor.__matmul__`.
"""
