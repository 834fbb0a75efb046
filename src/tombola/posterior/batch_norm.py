"""Batch-norm statistics of a state that was not trained: measured on batches of training examples."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tombola import streams
from tombola.errors import TombolaError

from .batch import Batch, inputs_of, run
from .binding import Binding, buffers_of
from .state import State


def has_batch_norm(module: nn.Module) -> bool:
    """Return whether any layer is a batch norm, with or without running statistics."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


def has_running_statistics(module: nn.Module) -> bool:
    """Return whether any batch norm keeps running statistics, which can be re-estimated."""
    return any(_tracks(layer) for layer in module.modules())


def reestimated(module: nn.Module, state: State, batches: Iterable[Batch], stream: streams.Name) -> State:
    """Return the state with running statistics measured on `batches`: each layer's means and unbiased variances, averaged.

    Each batch has a weight sample of its own, as in training (of a point: itself). All but batch norm is in evaluation mode
    (no dropout). stream: names the noise. The module is as it was afterwards, and without running statistics the state is
    returned unchanged. Izmailov et al. 2018, section 3.1.
    """
    layers = [layer for layer in module.modules() if _tracks(layer)]
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


@contextmanager
def normalising_one(module: nn.Module, examples: int) -> Iterator[None]:
    """Let a batch of one example be trained on, as the last one of a loader: by running statistics, which do not change.

    Only in layers that see a single value per channel, of which there is no variance. Does nothing for other batches. Raises
    TombolaError (in the forward pass) where a layer has no statistics, since no larger batch came before.
    """
    if examples != 1:
        yield
        return
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.training]
    measured = {layer for layer in layers if _tracks(layer) and layer.num_batches_tracked}

    def choose(layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        (inputs,) = (*args, *kwargs.values())
        layer.training = inputs.numel() > inputs.shape[1]
        if not layer.training and layer not in measured:
            raise TombolaError(
                "a batch of one example has no batch-norm statistics, and there are no running ones yet; use a larger "
                "batch, or drop_last=True of the DataLoader"
            )

    hooks = [layer.register_forward_pre_hook(choose, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for layer, hook in zip(layers, hooks, strict=True):
            hook.remove()
            layer.training = True


def _tracks(layer: nn.Module) -> TypeGuard[_BatchNorm]:
    return isinstance(layer, _BatchNorm) and layer.track_running_stats and layer.running_mean is not None
