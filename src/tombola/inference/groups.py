"""What an optimiser steps over."""

from collections.abc import Iterable

from torch import nn

from tombola.settings import TrainSettings


def with_decay(groups: Iterable[dict], likelihood: nn.Module, settings: TrainSettings) -> list[dict]:
    """Optimiser groups of torch: a learner's flat `groups` that are not empty, and what the likelihood learns."""
    found = [
        {
            "params": group["params"],
            "factor": group["factor"],
            "weight_decay": settings.weight_decay if group["decayed"] else 0.0,
        }
        for group in groups
        if group["params"][0].numel()
    ]
    learned = [p for p in likelihood.parameters() if p.requires_grad]
    if learned:
        found.append({"params": learned, "factor": 1.0, "weight_decay": 0.0})
    return found
