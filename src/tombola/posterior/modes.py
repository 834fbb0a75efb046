"""Modes: the caller's autograd mode, in any of which trainings and predictions run, and the modes of a module's parts."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

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


@contextmanager
def in_training(module: nn.Module) -> Iterator[None]:
    """Put the module in training mode; afterwards each part is in the mode that it had."""
    with _modes_kept(module):
        module.train()
        yield


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """Put the module in evaluation mode; afterwards each part is in the mode that it had."""
    with _modes_kept(module):
        module.eval()
        yield


@contextmanager
def _modes_kept(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
