"""A module's forward pass through torch.compile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tombola.errors import TombolaError
from tombola.settings import TrainSettings

from .estimators.outputs import OutputEstimator


def check_compile(settings: TrainSettings, estimator: Callable[..., Any] | None) -> None:
    """Raise TombolaError for an estimator under which nothing can be compiled. None: of a method without estimator."""
    if intercepts(estimator):
        raise TombolaError(
            f"compile is on, but estimator {settings.estimator!r} has to see the network's operations one by one; "
            "set compile: false, or estimator: weight_sample"
        )


def intercepts(estimator: Callable[..., Any] | None) -> bool:
    """Return whether an estimator intercepts the network's operations."""
    return isinstance(estimator, type) and issubclass(estimator, OutputEstimator)


class Compiled:
    """A module's compiled form; the module keeps its names, parameters and modes, which the compiled form follows.

    Raises TombolaError for a module that cannot be compiled.
    """

    def __init__(self, module: nn.Module):
        self._name = type(module).__name__
        self._compiled = torch.compile(module, dynamic=False)  # a smaller last batch is compiled once for itself

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.refusals():
            return self._compiled(*args, **kwargs)

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn the compiler's errors into TombolaErrors; a backward pass may be compiled only when it first runs."""
        try:
            yield
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise TombolaError(f"torch.compile cannot compile {self._name}: {reason}; set compile: false") from error
