"""A module's forward pass through torch.compile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tombola.errors import TombolaError
from tombola.settings import TrainSettings

from .estimators.outputs import OutputEstimator
from .estimators.sample import WeightSample


def forward_of(module: nn.Module, settings: TrainSettings, sample: WeightSample | None = None) -> Callable[..., Any]:
    """What a training calls for a forward pass: the module, or where `settings.compile` says so its compiled form.

    The module itself stays as it was, with its names, its parameters and its modes, which the compiled form follows.
    Raises TombolaError for an estimator that puts noise into the module's operations: compiled ones cannot be seen.
    """
    if not settings.compile:
        return module
    check_compile(settings, None if sample is None else type(sample))
    return Compiled(module)


def check_compile(settings: TrainSettings, estimator: Callable[..., Any] | None) -> None:
    """Raises TombolaError for an estimator under which nothing can be compiled. None: of a method that has none."""
    if has_to_see_operations(estimator):
        raise TombolaError(
            f"compile is on, but estimator {settings.estimator!r} has to see the network's operations one by one; "
            "set compile: false, or estimator: weight_sample"
        )


def has_to_see_operations(estimator: Callable[..., Any] | None) -> bool:
    """Whether an estimator puts noise into the network's operations."""
    return isinstance(estimator, type) and issubclass(estimator, OutputEstimator)


class Compiled:
    """A module's compiled form. What cannot be compiled is a TombolaError."""

    def __init__(self, module: nn.Module):
        self._name = type(module).__name__
        self._compiled = torch.compile(module, dynamic=False)  # a smaller last batch is compiled once for itself

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.refusals():
            return self._compiled(*args, **kwargs)

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Within it the compiler's errors are TombolaErrors: a backward pass may be compiled only when it first runs."""
        try:
            yield
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise TombolaError(f"torch.compile cannot compile {self._name}: {reason}; set compile: false") from error
