"""Moments as an estimator: outputs of a ticket, drawn from their mean and variance.

Legend: S draws, B examples.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.pruning.ticket import Ticket

from .compiler import check_example, moments_graph
from .uncertain import DensePredictor, Moments


def moment_outputs(
    ticket: Ticket,
    module: nn.Module,
    inputs: Any,
    *,
    samples: int = 512,
    seed: Any = 0,
    batch: int = 1024,
    training: Tensor | None = None,
) -> Tensor:
    """Return S normal outputs of each example, drawn from the moments: [S, B, ...], on the CPU.

    Torch computes the moments, so that results don't depend on timings and numba is not needed; to predict many times, use
    `compile_moments`, which exports the network once and has faster kernels. Equal seeds give equal draws for every batch.

    inputs: one tensor [B, ...], as the module takes it. batch: examples of a pass.
    training: as of `compile_moments`.
    Raises TombolaError for other inputs, and as `compile_moments` does.
    """
    if not isinstance(inputs, Tensor):
        raise TombolaError(f"moments take one tensor of inputs, not a {type(inputs).__name__}; use weight samples")
    if batch < 1:
        raise TombolaError(f"batch is {batch}; it must be at least 1")
    on_cpu = module if all(p.device.type == "cpu" for p in module.parameters()) else copy.deepcopy(module).cpu()
    inputs = inputs.cpu()
    check_example(inputs, "inputs are")
    graph = moments_graph(ticket, on_cpu, inputs, None if training is None else training.cpu())
    moments = Moments(DensePredictor(graph))
    return torch.cat([moments.outputs(part, samples=samples, seed=seed) for part in inputs.split(batch)], 1)
