"""Estimators with noise in the outputs of operations: local reparameterisation and Flipout.

Legend: P parameters of the layout, of which the first n are random.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor

from tombola.errors import TombolaError

from .functions import AddNoise, NoisyOutput, SampledWeight, Spread, flipout_noise, local_noise
from .intercept import FlatWeights, Interception
from .noise import OutputNoise
from .operations import Call
from .sample import MeanWeights


class OutputEstimator(MeanWeights):
    """Noise in the outputs of the operations that use a random weight; the module's parameters are the mean.

    An operation without a rule gets a weight sample, the same for all such uses in one pass, with one warning for each
    parameter and function. Pruned weights have no variance: they add exactly 0 to every output. Raises TombolaError where
    noise would silently be missing, or where the backward pass would have other noise.
    """

    says_fallbacks: ClassVar[bool] = True
    """False in a subclass that uses weight samples on purpose: no warnings."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._weights = FlatWeights(self.layout, self.theta, self.mask)
        self._outputs = OutputNoise((*self.noise.stream, "outputs"), self.noise.refresh, self.theta)
        self._warned: set[tuple[str, str]] = set()
        self._seen: set[int] = set()

    def draw(self, tick: int, first: bool) -> None:
        super().draw(tick, first)
        self._outputs.begin(tick)
        self._eps_now: Tensor | None = None
        self._delta_now: Tensor | None = None
        self._seen.clear()
        for where in self._converted():  # a copy is no view of `theta`, so its uses are not intercepted: a weight sample
            torch.add(self.mean[where], self._delta()[where], out=self.theta[where])

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Return the context in which the uses of random weights are intercepted."""
        with Interception(self._weights, self) as interception:
            yield
        self._seen |= interception.seen

    def apply(self, call: Call) -> Tensor | None:
        """Return the output of an operation whose weight is random; None where this estimator has no rule for it."""
        raise NotImplementedError

    def sampled(self, weight: Tensor, used_by: str | None) -> Tensor:
        """Return the weight sample that estimator weight_sample has at this tick, with a warning if `used_by` is given."""
        name = self._weights.name(weight)
        if used_by is not None and self.says_fallbacks and (name, used_by) not in self._warned:
            self._warned.add((name, used_by))
            warnings.warn(
                f"{type(self).__name__} has no rule for {used_by} of parameter {name!r}: it sees a weight sample",
                stacklevel=2,
            )
        single = weight
        for d, stride in enumerate(weight.stride()):  # an expanded weight: one number at many places is one draw
            single = single.narrow(d, 0, 1) if stride == 0 and weight.shape[d] > 1 else single
        return SampledWeight.apply(single, self._spread(single, self._delta(), self._eps_drawn())).expand_as(weight)

    def accumulate(self, first: bool) -> None:
        self._account()
        super().accumulate(first)

    def finish(self, first: bool, kl_weight: float | Tensor, prior_std: float) -> None:
        self._account()
        super().finish(first, kl_weight, prior_std)

    def _converted(self) -> list[slice]:
        return [where for where in self.converted if where.start < self.n]

    def _account(self) -> None:
        """Add the derivatives by the std of converted copies.

        Raises TombolaError if another random weight has a gradient but no intercepted use: its noise would silently be
        missing.
        """
        for where in self._converted():
            self.log_std_grad[where].addcmul_(self.grad[where], self._eps_drawn()[where])
        for i, (segment, alive) in enumerate(zip(self._weights.segments, self._weights.alive, strict=True)):
            hidden = alive and i not in self._seen and segment.slice not in self.converted
            if hidden and bool(self.grad[segment.slice].any()):
                raise TombolaError(
                    f"parameter {segment.name!r} is used where no noise could be added (scripted code, or a copy); "
                    "use estimator weight_sample"
                )

    def _run(self, call: Call, add_noise: AddNoise, second: Tensor, factor: Tensor) -> Tensor:
        """Return the call's output with noise, in the precision that autocast would give the operation.

        second, factor: [n], of which `Spread` has views.
        """
        x, w, b, of_b = call.x, call.w, call.b, None
        of_w = self._spread(w, second, factor)
        if b is not None and b in self._weights:
            of_b = self._spread(b, second, factor)
        kind = x.device.type
        lowered = call.operation.autocasts and torch.is_autocast_enabled(kind)
        if lowered:  # before they are saved: the backward pass runs without autocast, on operands of the output's dtype
            dtype = torch.get_autocast_dtype(kind)
            x, w, b = _lowered(x, dtype), _lowered(w, dtype), None if b is None else _lowered(b, dtype)
        with torch.autocast(kind, enabled=False) if lowered else nullcontext():
            return NoisyOutput.apply(x, w, b, call.operation, of_w, of_b, self._outputs, add_noise)

    def _spread(self, weight: Tensor, second: Tensor, factor: Tensor) -> Spread:
        def view(flat: Tensor) -> Tensor:
            return flat.as_strided(weight.shape, weight.stride(), flat.storage_offset() + weight.storage_offset())

        return Spread(view(second), view(factor), view(self.log_std_grad))

    def _eps_drawn(self) -> Tensor:
        """Return the noise of weights [n] at this tick; drawn when first asked for, which `local` never does."""
        if self._eps_now is None:
            self._eps_now = self.noise.window(self._tick)
        return self._eps_now

    def _delta(self) -> Tensor:
        """Return the perturbation std * eps [n] of this tick."""
        if self._delta_now is None:
            self._delta_now = self.std * self._eps_drawn()
        return self._delta_now


def _lowered(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)  # autocast leaves float64 alone


class Local(OutputEstimator):
    """Local reparameterisation: every output of linear, convolution, addmm and embedding has noise of its own."""

    def draw(self, tick: int, first: bool) -> None:
        super().draw(tick, first)
        if first:
            self._var = self.std.square()

    def apply(self, call: Call) -> Tensor | None:
        return self._run(call, local_noise, self._var, self.std)


class Flipout(OutputEstimator):
    """Flipout: one weight sample, whose perturbation has random signs for each example and channel."""

    def apply(self, call: Call) -> Tensor | None:
        if call.operation.channel is None:
            return None
        return self._run(call, flipout_noise, self._delta(), self._eps_drawn())
