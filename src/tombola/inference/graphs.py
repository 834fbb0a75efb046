"""The data term of the settings, and what `compile` and `cuda_graphs` cannot have."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tombola.errors import TombolaError
from tombola.posterior.binding import Binding
from tombola.settings import TrainSettings

from .compiled import Compiled, check_compile, intercepts
from .estimators.sample import WeightSample
from .forward import DataTerm


def term_of(
    binding: Binding, likelihood: nn.Module, settings: TrainSettings, sample: WeightSample | None = None
) -> DataTerm:
    """Return the data term of the settings. Raises TombolaError where `compile` or `cuda_graphs` is impossible."""
    estimator = None if sample is None else type(sample)
    if settings.compile:
        check_compile(settings, estimator)
    if settings.cuda_graphs:
        check_graphs(settings, estimator)
        check_device(binding.theta.device)
    forward = Compiled(binding.module) if settings.compile else None
    return DataTerm(binding, likelihood, settings.precision, settings.accumulate, forward)


def check_device(device: torch.device) -> None:
    """Raise TombolaError for a device without CUDA graphs."""
    if device.type != "cuda":
        raise TombolaError(
            f"train.cuda_graphs needs a CUDA device; this training is on {device.type}: set cuda_graphs: false"
        )


def check_graphs(settings: TrainSettings, estimator: Callable[..., Any] | None) -> None:
    """Raise TombolaError for settings whose steps cannot be replayed. estimator: None of a method without one."""
    if intercepts(estimator):
        raise TombolaError(f"cuda_graphs is on, but estimator {settings.estimator!r} changes from step to step; turn it off")
    if estimator is not None and settings.objective != "expected_log":
        raise TombolaError(f"cuda_graphs is on, but objective {settings.objective!r} is no single pass; turn it off")
    if estimator is not None and settings.noise_refresh < 1:
        raise TombolaError(
            f"cuda_graphs is on, but noise_refresh {settings.noise_refresh:g} reads a pool at places that change with "
            "every step; set noise_refresh: 1"
        )
