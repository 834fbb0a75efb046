"""Local reparameterisation and Flipout of one operation: two autograd functions, each over any linear operation.

Both see the weight's mean `w` and put noise into the output; what flows back to the weight's standard deviation goes
straight into a flat buffer, as the derivative of the loss by std.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .noise import OutputNoise


@dataclass(frozen=True)
class Spread:
    """What belongs to a random weight, each a view of a flat buffer in the weight's shape."""

    std: Tensor
    std_grad: Tensor
    """Where d loss / d std is summed."""
    second: Tensor
    """Its variance (local reparameterisation), or the perturbation std * eps (Flipout)."""
    eps: Tensor | None = None
    """The perturbation's noise (Flipout)."""


class LocalFunction(torch.autograd.Function):
    """out ~ N(f(x, w, b), f(x^2, var w, var b)), drawn for each output by itself (Kingma, Salimans & Welling 2015).

    With r = noise / sd, out = mean + var * r; for a gradient g of out, g r is twice that of var, and as var = std^2 the
    derivative by std is std times what f's gradients make of g r. Where var is 0 (pruned, or x is 0), r is 0: no noise, and
    no gradient through it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        b: Tensor | None,
        operation: Any,
        of_w: Spread,
        of_b: Spread | None,
        noise: OutputNoise,
    ) -> Tensor:
        out = operation(x, w, b)
        var = operation(operation.squared(x), of_w.second.to(w.dtype), None if of_b is None else of_b.second.to(w.dtype))
        out, ratio = _perturbed(out, var, noise)
        ctx.save_for_backward(x, w, ratio)
        ctx.rest = operation, of_w, of_b
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        (x, w, ratio), (operation, of_w, of_b) = ctx.saved_tensors, ctx.rest
        needs = ctx.needs_input_grad[:3]
        of_x, of_mean, of_mean_b = operation.gradients(g, x, w, needs)
        by_x2, by_var, by_var_b = operation.gradients(
            g * ratio, operation.squared(x), of_w.second.to(w.dtype), (needs[0], True, of_b is not None)
        )
        if needs[0]:
            of_x = of_x.addcmul_(x, by_x2)  # the factors 2 of x^2 and 1/2 of the root cancel
        _add(of_w.std_grad, of_w.std, by_var)
        if of_b is not None:
            _add(of_b.std_grad, of_b.std, by_var_b)
        return of_x, of_mean, of_mean_b, None, None, None, None


class FlipoutFunction(torch.autograd.Function):
    """out = f(x, w, b) + r f(s x, std * eps), with signs s and r of each example and channel (Wen et al. 2018)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        b: Tensor | None,
        operation: Any,
        of_w: Spread,
        of_b: Spread | None,
        noise: OutputNoise,
    ) -> Tensor:
        out = operation(x, w, b)
        signs_in, signs_out = (noise.signs(_sign_shape(t, operation.channel)).to(w.dtype) for t in (x, out))
        delta = operation(x * signs_in, of_w.second.to(w.dtype), None if of_b is None else of_b.second.to(w.dtype))
        ctx.save_for_backward(x, w, signs_in, signs_out)
        ctx.rest = operation, of_w, of_b
        return out.addcmul_(delta, signs_out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        (x, w, signs_in, signs_out), (operation, of_w, of_b) = ctx.saved_tensors, ctx.rest
        needs = ctx.needs_input_grad[:3]
        of_x, of_mean, of_mean_b = operation.gradients(g, x, w, needs)
        flipped_x, by_delta, by_delta_b = operation.gradients(
            g * signs_out, x * signs_in, of_w.second.to(w.dtype), (needs[0], True, of_b is not None)
        )
        if needs[0]:
            of_x = of_x.addcmul_(flipped_x, signs_in)
        _add(of_w.std_grad, of_w.eps, by_delta)
        if of_b is not None:
            _add(of_b.std_grad, of_b.eps, by_delta_b)
        return of_x, of_mean, of_mean_b, None, None, None, None


class Sampled(torch.autograd.Function):
    """The weight sample w + std * eps of one weight."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, of_w: Spread) -> Tensor:
        ctx.of_w = of_w
        return w + of_w.second

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        _add(ctx.of_w.std_grad, ctx.of_w.eps, g)
        return g, None


def _add(total: Tensor, factor: Tensor, grad: Tensor) -> None:
    grad = grad.to_dense() if grad.is_sparse else grad
    total.addcmul_(factor, grad.to(total.dtype))


def _perturbed(mean: Tensor, var: Tensor, noise: OutputNoise) -> tuple[Tensor, Tensor]:
    """mean + sqrt(var) * noise and noise / sqrt(var), 0 where var is 0; in the memory of `mean` and `var`."""
    if mean.stride() != var.stride() or not _compact(mean):
        mean, var = mean.contiguous(), var.contiguous()
    flat_mean, flat_var = (t.as_strided((t.numel(),), (1,)) for t in (mean, var))
    for part, eps in noise.blocks(mean.numel()):
        m, v = flat_mean[part], flat_var[part]
        # an infinite variance in place of 0 makes the ratio 0; it also hides what rounding may leave below 0
        ratio = torch.threshold(v, 0.0, math.inf).rsqrt_().mul_(eps)
        m.addcmul_(v, ratio)
        v.copy_(ratio)
    return mean, var


def _compact(tensor: Tensor) -> bool:
    """Whether its elements fill its memory without gaps."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return last + 1 == tensor.numel()


def _sign_shape(tensor: Tensor, channel: int) -> list[int]:
    """One sign for each example (the first dimension) and channel."""
    shape = [1] * tensor.ndim
    shape[0], shape[channel] = tensor.shape[0], tensor.shape[channel]
    return shape
