"""Batch-norm statistics of a state that was not trained: measured on batches of training examples."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tombola import streams

from .batch import Batch, inputs_of, run
from .binding import Binding, buffers_of
from .state import State


def has_batch_norm(module: nn.Module) -> bool:
    """Whether any layer normalises by statistics, of the batch or running ones."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


def has_running_statistics(module: nn.Module) -> bool:
    """Whether there is something to re-estimate."""
    return any(_tracks(layer) for layer in module.modules())


def reestimated(module: nn.Module, state: State, batches: Iterable[Batch], stream: streams.Name) -> State:
    """The state with the running statistics that `batches` give it: of each layer the mean over the batches of their means
    and unbiased variances, with a weight sample for each batch, as in training (a point: itself).

    Everything but batch norm is in evaluation mode (no dropout). stream: name the noise. The module is as it was afterwards,
    and a module without running statistics gives the state back. Izmailov et al. 2018, section 3.1.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and _tracks(layer)]
    if not layers:
        return state
    q, momenta = state.posterior, [layer.momentum for layer in layers]
    theta = q.mean.clone()
    try:
        with torch.no_grad(), Binding(module, q.layout, theta, state.buffers) as binding:
            module.eval()
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # the average of all batches, not of the last ones
                layer.training = True
            for i, batch in enumerate(batches):
                theta.copy_(q.sample(streams.generator("batch_norm", *stream, i, device=theta.device)))
                binding.wrote()
                run(module, inputs_of(batch))
            return replace(state, buffers=buffers_of(module))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _tracks(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) and layer.track_running_stats and layer.running_mean is not None
