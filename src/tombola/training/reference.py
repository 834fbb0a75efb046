"""Training examples that batch-norm statistics are measured on: few, not augmented, the same for all tickets of a set."""

from typing import Any

import torch
from torch import Tensor

from tombola import streams
from tombola.data.batches import Batches, Prepare, TensorBatches
from tombola.posterior.batch import examples_of, inputs_of
from tombola.posterior.batch_norm import EXAMPLES


def stored_reference(inputs: Tensor, prepare: Prepare | None, device: torch.device) -> list[Any]:
    """Return one batch of stored `inputs` [N, ...] as a network takes them, on the device."""
    chosen = torch.randperm(len(inputs), generator=streams.generator("batch_norm", "examples"))[:EXAMPLES].sort().values
    part = inputs.index_select(0, chosen.to(inputs.device)).to(device)
    return [prepare(part) if prepare else part]


def reference_of(batches: Batches) -> list[Any]:
    """Return batches of inputs of a training's examples; of a loader its first ones, as it gives them.

    Its last batch is left out where it has one example, of which there is no variance.
    """
    if isinstance(batches, TensorBatches):
        return stored_reference(batches.inputs, batches.prepare, batches.device)
    found: list[Any] = []
    examples = 0
    with streams.global_stream("batch_norm", "examples"):  # of a loader that shuffles by torch's global randomness
        for batch in batches.epoch(0, 0):
            if not found or examples_of(batch) > 1:
                found.append(inputs_of(batch))
                examples += examples_of(batch)
            if examples >= EXAMPLES:
                break
    return found
