"""Trained tickets without a training: random masks over a model's weights, with spread and batch-norm statistics drawn."""

from collections.abc import Sequence

import torch
from torch import nn

from tombola.posterior.binding import buffers_of
from tombola.posterior.gaussian import Gaussian
from tombola.posterior.layout import Layout
from tombola.posterior.state import State
from tombola.pruning.ticket import Ticket


def random_ticket(module: nn.Module, density: float | Sequence[float], std: float = 0.0, seed: int = 0) -> Ticket:
    """Return a ticket of `module` with a random mask, and weights scaled so that activations keep their size.

    density: share of the weights left, of all prunable layers or of each in order. std: of the posterior, as a share of the
    root mean square of a layer's weights.
    """
    layout, stream = Layout.of(module), torch.Generator().manual_seed(seed)
    mean = layout.flatten(dict(module.named_parameters())).detach().clone()
    mask, log_std = torch.ones(layout.numel, dtype=torch.bool), torch.full((layout.numel,), -30.0)
    prunable = [segment.name for segment in layout.segments if segment.prunable]
    in_order = [name for name, _ in module.named_parameters() if name in prunable]
    shares = [density] * len(in_order) if isinstance(density, float) else density
    left = dict(zip(in_order, shares, strict=True))
    for segment in layout.segments:
        values, kept = mean[segment.slice], mask[segment.slice]
        if segment.prunable:
            kept.copy_(torch.rand(segment.numel, generator=stream) < left[segment.name])
            values *= kept / left[segment.name] ** 0.5
        elif len(segment.shape) == 1:
            values += 0.1 * torch.randn(segment.numel, generator=stream)
        if std and segment.random:
            log_std[segment.slice] = (std * values[kept].square().mean().sqrt()).clamp(min=1e-12).log()
    buffers = {name: value.clone() for name, value in buffers_of(module).items()}
    for name, value in buffers.items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1, generator=stream)
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=stream)
    state = State(Gaussian(layout, mean, log_std, mask).masked(mask), buffers, {})
    return Ticket(mask, state, state)
