"""What a forward pass sees in place of random weights, and what flows back to their means and stds.

Legend: P parameters of the layout, of which the first n are random.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.posterior.layout import Layout

from .intercept import FlatWeights, Interception
from .local import FlipoutFunction, LocalFunction, Sampled, Spread
from .noise import NoisePool, OutputNoise
from .operations import Call
from .sample import WeightSample, write_std


class Antithetic(WeightSample):
    """Weight samples in pairs, mean + std * eps and mean - std * eps: what is odd in eps cancels."""

    def _noise(self, tick: int) -> Tensor:
        pair, second = divmod(tick, 2)
        eps = self.noise.window(pair)
        return eps.neg() if second else eps


class MeanWeights(WeightSample):
    """The mean itself: no noise, so the data say nothing about std, whose gradient is the KL term's alone."""

    def draw(self, tick: int, first: bool) -> None:
        """Writes the mean into `theta`."""
        self._tick, self._eps = tick, None
        if not first:
            return
        for mean, log_std, std, theta, keep in self._blocks(self.mean, self.log_std, self._std, self.theta, self._keep):
            write_std(mean, log_std, std, keep)
            theta.copy_(mean)
        self._show_rest()
        self.log_std_grad.zero_()  # derivatives by std are summed here


class OutputEstimator(MeanWeights):
    """Noise in the outputs of the operations that use a random weight; the module's parameters are the mean.

    An operation without a rule sees a weight sample, the same for all such uses in one pass, and a warning says so once for
    each parameter and function. Pruned weights have no variance: they stay exactly 0 in every output. Raises TombolaError
    where noise would silently be missing or another one in the backward pass.
    """

    says_fallbacks: ClassVar[bool] = True
    """Whether a weight sample in place of a rule is warned of."""

    def __init__(
        self,
        layout: Layout,
        mean: Tensor,
        log_std: Tensor,
        mask: Tensor,
        noise: NoisePool,
        several: bool,
        prior_mean: Tensor | None = None,
    ):
        super().__init__(layout, mean, log_std, mask, noise, several, prior_mean)
        self._weights = FlatWeights(layout, self.theta, mask)
        self._outputs = OutputNoise((*noise.stream, "outputs"), noise.refresh, self.theta)
        self._said: set[tuple[str, str]] = set()
        self._seen: set[int] = set()

    def draw(self, tick: int, first: bool) -> None:
        super().draw(tick, first)
        self._outputs.begin(tick)
        self._eps_now: Tensor | None = None
        self._delta_now: Tensor | None = None
        self._seen.clear()
        for where in self._converted():  # their uses cannot be seen: the copies are made of a weight sample
            torch.add(self.mean[where], self._delta()[where], out=self.theta[where])

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Within it the uses of random weights are seen."""
        with Interception(self._weights, self) as interception:
            yield
        self._seen |= interception.seen

    def apply(self, call: Call) -> Tensor | None:
        """The output of an operation whose weight is random; None where this estimator has no rule for it."""
        raise NotImplementedError

    def sampled(self, weight: Tensor, used_by: str | None) -> Tensor:
        """The weight sample, as method weight_sample has it at this tick."""
        if used_by is not None and self.says_fallbacks:
            self._say(self._weights.names[self._weights.index(weight)], used_by)
        expanded = [d for d, stride in enumerate(weight.stride()) if stride == 0 and weight.shape[d] > 1]
        single = weight
        for d in expanded:  # one number seen at many places is one draw
            single = single.narrow(d, 0, 1)
        sample = Sampled.apply(single, self._spread(single, self._delta(), self._eps_drawn()))
        return sample.expand_as(weight) if expanded else sample

    def accumulate(self, first: bool) -> None:
        self._account()
        super().accumulate(first)

    def finish(self, first: bool, kl_weight: float, prior_std: float) -> None:
        self._account()
        super().finish(first, kl_weight, prior_std)

    def _converted(self) -> list[slice]:
        return [where for where in self.converted if where.start < self.n]

    def _account(self) -> None:
        """Adds what converted copies say of std. Raises TombolaError if another random weight has a gradient but was never
        met: its noise would silently be missing."""
        for where in self._converted():
            self.log_std_grad[where].addcmul_(self.grad[where], self._eps_drawn()[where])
        for i, (name, where, alive) in enumerate(
            zip(self._weights.names, self._weights.slices, self._weights.alive, strict=True)
        ):
            if alive and i not in self._seen and where not in self.converted and bool(self.grad[where].any()):
                raise TombolaError(
                    f"parameter {name!r} is used where no noise could be added (scripted code, or a copy); "
                    "use estimator weight_sample"
                )

    def _run(self, function: type[torch.autograd.Function], call: Call, second: Tensor, eps: Tensor | None) -> Tensor:
        """`function` of the call, in the precision that autocast would give the operation."""
        x, w, b, of_b = call.x, call.w, call.b, None
        of_w = self._spread(w, second, eps)
        if b is not None and b in self._weights:
            of_b = self._spread(b, second, eps)
        kind = x.device.type
        if not (call.operation.autocasts and torch.is_autocast_enabled(kind)):
            return function.apply(x, w, b, call.operation, of_w, of_b, self._outputs)
        lower = torch.get_autocast_dtype(kind)
        x, w, b = _lowered(x, lower), _lowered(w, lower), None if b is None else _lowered(b, lower)
        with torch.autocast(kind, enabled=False):
            return function.apply(x, w, b, call.operation, of_w, of_b, self._outputs)

    def _spread(self, weight: Tensor, second: Tensor, eps: Tensor | None) -> Spread:
        def view(flat: Tensor) -> Tensor:
            return flat.as_strided(weight.shape, weight.stride(), flat.storage_offset() + weight.storage_offset())

        return Spread(view(self._std), view(self.log_std_grad), view(second), None if eps is None else view(eps))

    def _eps_drawn(self) -> Tensor:
        if self._eps_now is None:
            self._eps_now = self.noise.window(self._tick)
        return self._eps_now

    def _delta(self) -> Tensor:
        if self._delta_now is None:
            self._delta_now = self._std * self._eps_drawn()
        return self._delta_now

    def _say(self, name: str, used_by: str) -> None:
        if (name, used_by) not in self._said:
            self._said.add((name, used_by))
            warnings.warn(
                f"{type(self).__name__} has no rule for {used_by} of parameter {name!r}: it sees a weight sample",
                stacklevel=2,
            )


def _lowered(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)  # as autocast does


class Local(OutputEstimator):
    """Local reparameterisation: every output of linear, convolution, addmm and embedding has noise of its own."""

    def draw(self, tick: int, first: bool) -> None:
        super().draw(tick, first)
        if first:
            self._var = self._std.square()

    def apply(self, call: Call) -> Tensor | None:
        return self._run(LocalFunction, call, self._var, None)


class Flipout(OutputEstimator):
    """Flipout: one weight sample, whose perturbation has random signs for each example and channel."""

    def apply(self, call: Call) -> Tensor | None:
        if call.operation.channel is None:
            return None
        return self._run(FlipoutFunction, call, self._delta(), self._eps_drawn())


ESTIMATORS: dict[str, Callable[..., WeightSample]] = {
    "weight_sample": WeightSample,
    "antithetic": Antithetic,
    "local": Local,
    "flipout": Flipout,
    "mean": MeanWeights,
}
