"""Metrics of a validation set during training."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tombola.data.batches import Prepare
from tombola.errors import TombolaError
from tombola.posterior.batch import IGNORED, Batch, channels_last, examples_of, in_parts, inputs_of, moved, run, targets_of
from tombola.posterior.batch_norm import measured
from tombola.posterior.likelihood import Categorical

VALIDATED_AT_ONCE = 1024


def validate(
    module: nn.Module,
    likelihood: nn.Module,
    validation: Sequence[Batch],
    prepare: Prepare | None,
    device: torch.device,
    laid_out: bool = False,
    reference: Sequence[Any] = (),
) -> dict[str, float]:
    """Return nll and accuracy of one pass of the module as it is.

    validation: batches of examples, each cut into parts where it can be.
    laid_out: whether images are laid out channels-last, as in the training.
    reference: batches of training inputs by whose statistics the norm layers normalise; without any, by the running ones.
    """
    module.eval()
    likelihood.eval()
    # summed on the device: a look at each part would wait for it
    nll, right = torch.zeros((), dtype=torch.float64, device=device), torch.zeros((), dtype=torch.int64, device=device)
    counted = examples = 0
    with torch.no_grad(), measured(module, [channels_last(part) if laid_out else part for part in reference]):
        for part in (part for batch in validation for part in in_parts(batch, VALIDATED_AT_ONCE)):
            examples += examples_of(part)
            part = moved(part, device)
            if prepare:
                part = prepare(inputs_of(part)), targets_of(part)
            if laid_out:
                part = channels_last(part)
            output = run(module, inputs_of(part))
            nll -= likelihood(output, part).double().sum()
            hits = _hits(output, part, likelihood)
            right, counted = right + hits.sum().to(device), counted + hits.numel()
    likelihood.train()
    module.train()
    row = {"nll": nll.item() / examples}
    return row | ({"accuracy": right.item() / counted} if counted else {})


def _hits(output: Any, batch: Batch, likelihood: nn.Module) -> Tensor:
    """Return whether each label is the most likely one, bool [labels]; empty if targets are not classes of these logits."""
    none = torch.empty(0, dtype=torch.bool)
    try:
        logits, targets = (likelihood if isinstance(likelihood, Categorical) else Categorical()).compared(output, batch)
    except TombolaError:  # an output without logits, which only the caller's own likelihood can read
        return none
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.shape != logits.shape[:-1]:
        return none
    return (logits.argmax(-1) == targets)[targets != IGNORED]
