"""A module's forward pass through torch.compile."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..errors import TombolaError
from ..posterior.estimators import OutputEstimator
from ..posterior.sample import WeightSample
from ..settings import TrainSettings


def forward_of(module: nn.Module, settings: TrainSettings, sample: WeightSample | None = None) -> Callable[..., Any]:
    """What a training calls for a forward pass: the module, or where `settings.compile` says so its compiled form.

    The module itself stays as it was, with its names, its parameters and its modes, which the compiled form follows.
    Raises TombolaError for an estimator that puts noise into the module's operations: compiled ones cannot be seen.
    """
    if not settings.compile:
        return module
    if isinstance(sample, OutputEstimator):
        raise TombolaError(
            f"compile is on, but estimator {settings.estimator!r} has to see the network's operations one by one; "
            "set compile: false, or estimator: weight_sample"
        )
    compiled = torch.compile(module, dynamic=False)  # a smaller last batch is compiled once for itself

    def forward(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise TombolaError(
                f"torch.compile cannot compile {type(module).__name__}: {reason}; set compile: false"
            ) from error

    return forward
