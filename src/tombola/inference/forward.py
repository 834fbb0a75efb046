"""The data term of every method's loss."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.posterior.batch import Batch, examples_of, inputs_of, length_of, lengths_of, run, shares
from tombola.posterior.binding import Binding
from tombola.posterior.likelihood import LogLikelihood

from .compiled import Compiled

Within = Callable[[], AbstractContextManager]


class DataTerm:
    """The log likelihood of a batch at the weights that the binding shows.

    accumulate: the parts that a batch goes through the module in, one after another: the memory of one, the same weights.
    """

    def __init__(
        self,
        binding: Binding,
        likelihood: LogLikelihood,
        precision: str = "fp32",
        accumulate: int = 1,
        forward: Callable[..., Any] | None = None,
    ):
        """forward: called in place of the binding's module, whose parameters it uses."""
        self.binding, self.likelihood, self.precision, self.accumulate = binding, likelihood, precision, accumulate
        self._forward = forward or binding.module
        self._refusals: Within = forward.refusals if isinstance(forward, Compiled) else nullcontext

    def log_likelihood(self, batch: Batch) -> Tensor:
        """Of each example, [B], in nats. Raises TombolaError if the likelihood returns another shape."""
        return torch.cat([self._of_part(part) for part, _ in self._parts(batch)])

    def backward(
        self, batch: Batch, out: Tensor, scale: float, weights_B: Tensor | None = None, within: Within = nullcontext
    ) -> Tensor:
        """The mean negative log likelihood (nats per example, detached), each example's times its weight; `out` becomes its
        flat gradient times `scale`. within: what each forward pass, but no backward pass, runs within."""
        value = torch.zeros((), device=out.device)

        def losses() -> Iterator[Tensor]:
            nonlocal value
            length = examples_of(batch)
            for part, rows in self._parts(batch):
                with within():
                    found = self._of_part(part)
                loss = -(found if weights_B is None else weights_B[rows] * found).mean()
                if (share := (rows.stop - rows.start) / length) != 1:
                    loss = loss * share
                value = value + loss.detach()
                yield loss * scale if scale != 1 else loss
                del found, loss  # with their graph, before the next part's

        with self._refusals():
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
