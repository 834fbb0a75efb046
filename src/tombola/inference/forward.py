"""The data term of every method's loss."""

from typing import Any

import torch
from torch import Tensor, nn

from ..posterior.binding import Binding

Batch = tuple[Any, Tensor]
"""(inputs of the module, targets)."""


class DataTerm:
    """The log likelihood of a batch at the weights that the binding shows."""

    def __init__(self, binding: Binding, likelihood: nn.Module, precision: str = "fp32"):
        self.binding, self.likelihood, self.precision = binding, likelihood, precision

    def log_likelihood(self, batch: Batch) -> Tensor:
        """Of each example, [B], in nats, with its graph."""
        inputs, target = batch
        # a context of its own for each weight sample: autocast caches the weights it has cast
        torch.clear_autocast_cache()
        if self.precision == "bf16":
            with torch.autocast(self.binding.theta.device.type, dtype=torch.bfloat16):
                output = self.binding.module(inputs)
        else:
            output = self.binding.module(inputs)
        return self.likelihood(output, target)

    def backward(self, batch: Batch, out: Tensor, scale: float) -> Tensor:
        """The mean negative log likelihood (nats per example, detached); `out` becomes its flat gradient times `scale`."""
        loss = -self.log_likelihood(batch).mean()
        self.descend(loss, out, scale)
        return loss.detach()

    def descend(self, loss: Tensor, out: Tensor, scale: float) -> None:
        """`out` becomes the flat gradient of `loss` times `scale`."""
        self.binding.backward(loss * scale if scale != 1 else loss, out)
