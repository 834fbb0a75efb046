"""The autograd functions of the estimators: noise in the output of one operation, and the weight sample of one weight.

With f(x, w, b) the operation at the means of its weight and bias, both output estimators compute
out = f(x, w, b) + r * f(a * x, second).

Local reparameterisation has a = x, second = std^2, r = eps / sqrt(var) with var = f(x^2, std_w^2, std_b^2), and factor std.
Flipout has a and r of random signs, second = std * eps, and factor eps.

Local reparameterisation (Kingma, Salimans & Welling 2015, section 2.3, equation 6) draws each output from its own normal
distribution, of mean f(x, w, b) and variance var; eps has the shape of the output. Flipout (Wen et al. 2018, section 3.1)
gives each example the perturbation std * eps of the weights, times the outer product of its signs r and a.

Gradients take r for a constant, and d loss / d std is `factor` times the gradient by `second`. For Flipout both are exact.
For local reparameterisation out = mean + sqrt(var) * eps, so d out / d var = r / 2, and the half cancels the 2 of the
derivatives of std^2 and of x^2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .noise import OutputNoise
from .operations import Operation


@dataclass(frozen=True)
class Spread:
    """Views of flat buffers that belong to one random weight, each in the weight's shape; the table above names them."""

    second: Tensor
    factor: Tensor
    std_grad: Tensor
    """The sum of d loss / d std over all uses of the weight."""

    def add(self, grad: Tensor) -> None:
        """Add what a gradient by `second` says of std."""
        grad = grad.to_dense() if grad.is_sparse else grad
        self.std_grad.addcmul_(self.factor, grad.to(self.std_grad.dtype))


Second = Callable[[Tensor], Tensor]
"""(a * x) -> f(a * x, second_w, second_b)."""
AddNoise = Callable[[OutputNoise, Operation, Tensor, Tensor, Second], tuple[Tensor, Tensor, Tensor]]
"""(noise, operation, x, f(x, w, b), second) -> out, a, r; `out` is in the memory of f(x, w, b)."""


def local_noise(
    noise: OutputNoise, operation: Operation, x: Tensor, mean: Tensor, second: Second
) -> tuple[Tensor, Tensor, Tensor]:
    """Local reparameterisation. Where var is 0 (pruned, or x is 0), r is 0: no noise, and no gradient through it."""
    var = second(operation.scaled(x, x))
    if mean.stride() != var.stride() or not _is_compact(mean):
        mean, var = mean.contiguous(), var.contiguous()
    flat_mean, flat_var = (t.as_strided((t.numel(),), (1,)) for t in (mean, var))
    for part, eps in noise.blocks(mean.numel()):
        m, v = flat_mean[part], flat_var[part]
        # an infinite variance in place of 0 makes the ratio 0; it also hides what rounding may leave below 0
        ratio = torch.threshold(v, 0.0, math.inf).rsqrt_().mul_(eps)
        m.addcmul_(v, ratio)
        v.copy_(ratio)  # nothing reads var again: its memory becomes r
    return mean, x, var


def flipout_noise(
    noise: OutputNoise, operation: Operation, x: Tensor, mean: Tensor, second: Second
) -> tuple[Tensor, Tensor, Tensor]:
    """Flipout: one sign for each example (the first dimension) and channel, of the input and of the output."""
    assert operation.channel is not None, "an embedding, for which Flipout has no rule"
    channel = operation.channel

    def signs(tensor: Tensor) -> Tensor:
        shape = [1] * tensor.ndim
        for dim in (0, channel):
            shape[dim] = tensor.shape[dim]
        return noise.signs(shape).to(mean.dtype)

    a, r = signs(x), signs(mean)
    return mean.addcmul_(second(operation.scaled(x, a)), r), a, r


class NoisyOutput(torch.autograd.Function):
    """The output of an operation with the noise of `add_noise`; gradients by std go to the spreads of weight and bias.

    of_b: None for a bias that is not random, or none.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        b: Tensor | None,
        operation: Operation,
        of_w: Spread,
        of_b: Spread | None,
        noise: OutputNoise,
        add_noise: AddNoise,
    ) -> Tensor:
        """Return the operation's output with noise."""

        def second(scaled: Tensor) -> Tensor:
            return operation(scaled, of_w.second.to(w.dtype), None if of_b is None else of_b.second.to(w.dtype))

        out, a, r = add_noise(noise, operation, x, operation(x, w, b), second)
        ctx.save_for_backward(x, w, a, r)
        ctx.rest = operation, of_w, of_b
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        """Return the gradients by input, weight and bias, and add the gradients by their stds."""
        (x, w, a, r), (operation, of_w, of_b) = ctx.saved_tensors, ctx.rest
        needs = ctx.needs_input_grad[:3]
        by_x, by_w, by_b = operation.gradients(g, x, w, needs)
        by_scaled, by_second, by_second_b = operation.gradients(
            g * r, operation.scaled(x, a), of_w.second.to(w.dtype), (needs[0], True, of_b is not None)
        )
        if needs[0]:
            by_x = by_x.addcmul_(a, by_scaled)
        of_w.add(by_second)
        if of_b is not None:
            of_b.add(by_second_b)
        return by_x, by_w, by_b, None, None, None, None, None


class SampledWeight(torch.autograd.Function):
    """The weight sample w + std * eps of one weight: its spread's `second` is std * eps, its `factor` eps."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, of_w: Spread) -> Tensor:
        """Return the weight sample."""
        ctx.of_w = of_w
        return w + of_w.second

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        """Pass the gradient to the mean, and add the one by std."""
        ctx.of_w.add(g)
        return g, None


def _is_compact(tensor: Tensor) -> bool:
    """Return whether the elements fill their memory without gaps."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return last + 1 == tensor.numel()
