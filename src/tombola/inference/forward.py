"""The data term of every method's loss."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..errors import TombolaError
from ..posterior.batch import Batch, examples_of, inputs_of, length_of, run
from ..posterior.binding import Binding
from ..posterior.likelihood import LogLikelihood


class DataTerm:
    """The log likelihood of a batch at the weights that the binding shows."""

    def __init__(
        self,
        binding: Binding,
        likelihood: LogLikelihood,
        precision: str = "fp32",
        forward: Callable[..., Any] | None = None,
    ):
        """forward: called in place of the binding's module, whose parameters it uses."""
        self.binding, self.likelihood, self.precision = binding, likelihood, precision
        self._forward = forward or binding.module

    def log_likelihood(self, batch: Batch) -> Tensor:
        """Of each example, [B], in nats, with its graph. Raises TombolaError if the likelihood returns another shape."""
        forward, inputs = self._forward, inputs_of(batch)
        if self.precision == "bf16":
            capturing = self.binding.theta.is_cuda and torch.cuda.is_current_stream_capturing()
            # a copy that autocast keeps would lie in the memory of one graph
            with torch.autocast(self.binding.theta.device.type, dtype=torch.bfloat16, cache_enabled=not capturing):
                output = run(forward, inputs)
        else:
            output = run(forward, inputs)
        value = self.likelihood(output, batch)
        shape = tuple(value.shape) if isinstance(value, Tensor) else None
        if shape is None or len(shape) != 1 or (shape[0] != examples_of(batch) and shape[0] != length_of(inputs)):
            raise TombolaError(
                f"the likelihood returned {f'a {type(value).__name__}' if shape is None else f'shape {shape}'} for "
                f"{examples_of(batch)} examples; it must return the log likelihood of each example, [B]: sum over "
                "positions, and take no mean over the batch (reduction='none')"
            )
        return value

    def backward(self, batch: Batch, out: Tensor, scale: float, within: AbstractContextManager | None = None) -> Tensor:
        """The mean negative log likelihood (nats per example, detached); `out` becomes its flat gradient times `scale`.
        within: a context for the forward pass."""
        with within or nullcontext():
            loss = -self.log_likelihood(batch).mean()
        self.descend(loss, out, scale)
        return loss.detach()

    def descend(self, loss: Tensor, out: Tensor, scale: float) -> None:
        """`out` becomes the flat gradient of `loss` times `scale`."""
        self.binding.backward(loss * scale if scale != 1 else loss, out)
