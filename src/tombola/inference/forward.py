"""The data term of every method's loss."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.posterior.batch import Batch, examples_of, inputs_of, length_of, lengths_of, run, shares
from tombola.posterior.binding import Binding
from tombola.posterior.likelihood import LogLikelihood

from .compiled import Compiled

Within = Callable[[], AbstractContextManager]


@dataclass(eq=False)
class DataTerm:
    """The log likelihood of a batch at the weights in the binding's `theta`."""

    binding: Binding
    likelihood: LogLikelihood
    precision: str = "fp32"
    accumulate: int = 1
    """Parts of a batch that go through the module one after another, at the same weights, in the memory of one."""
    forward: Callable[..., Any] | None = None
    """Called in place of the binding's module, whose parameters it uses; None is the module."""

    def log_likelihood(self, batch: Batch) -> Tensor:
        """Return the log likelihood of each example, [B], in nats. Raises TombolaError for one of another shape."""
        return torch.cat([self._of_part(part) for part, _ in self._parts(batch)])

    def backward(
        self, batch: Batch, out: Tensor, scale: float, weights_B: Tensor | None = None, within: Within = nullcontext
    ) -> Tensor:
        """Return the mean negative log likelihood (nats per example, detached), each example's times its weight.

        Write its flat gradient times `scale` into `out`. within: the context of each forward pass, but of no backward pass.
        """
        value = torch.zeros((), device=out.device)

        def losses() -> Iterator[Tensor]:
            nonlocal value
            length = examples_of(batch)
            for part, rows in self._parts(batch):
                with within():
                    found = self._of_part(part)
                loss = -(found if weights_B is None else weights_B[rows] * found).mean()
                if (share := (rows.stop - rows.start) / length) != 1:  # the usual step, in one part, has no extra operation
                    loss = loss * share
                value = value + loss.detach()
                yield loss * scale if scale != 1 else loss
                del found, loss  # frees their graph before the next part's is built

        with self.forward.refusals() if isinstance(self.forward, Compiled) else nullcontext():
            self.binding.backward(losses(), out)
        return value

    def _parts(self, batch: Batch) -> Iterator[tuple[Batch, slice]]:
        if self.accumulate > 1 and examples_of(batch) not in lengths_of(inputs := inputs_of(batch)):
            raise TombolaError(
                f"train.accumulate is {self.accumulate}, but the batch has {length_of(inputs)} inputs and "
                f"{examples_of(batch)} targets, which cannot be cut alike; set accumulate: 1"
            )
        return shares(batch, examples_of(batch), self.accumulate)

    def _of_part(self, batch: Batch) -> Tensor:
        forward, inputs = self.forward or self.binding.module, inputs_of(batch)
        with self._autocast() if self.precision == "bf16" else nullcontext():  # a caller's own autocast stays
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

    def _autocast(self) -> AbstractContextManager:
        # autocast keeps the bf16 copies of weights that it makes: in a capture they would lie in the memory of one graph
        device = self.binding.theta.device
        capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=not capturing)
