"""Autograd modes of the caller: trainings and predictions run in inference mode and with disabled gradients, too."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def outside_inference_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function outside the caller's inference mode, without a graph of its own.

    Tensors that are made within inference mode can never be trained on, and those of a model outlive the call.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():  # to leave the mode alone would enable gradients
            return function(*args, **kwargs)

    return wrapped


def training_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function that trains, whatever the caller's mode: outside inference mode and with gradients enabled."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **kwargs)

    return wrapped


def recordable(leaf: Any) -> Any:
    """Return a leaf of a batch that autograd can save for a backward pass: a copy of a tensor of inference mode."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf
