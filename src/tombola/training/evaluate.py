"""Evaluation: the metrics of a trained ticket, one record."""

import json
import math
from typing import Any

import torch
from torch import nn

from tombola import metrics, streams
from tombola.data import Split
from tombola.data.batches import Prepare
from tombola.posterior.predictive import Prediction, outputs
from tombola.pruning.ticket import Ticket
from tombola.settings import EvaluateSettings, TrainSettings

from .loop import likelihood_of


def evaluate_ticket(
    module: nn.Module,
    ticket: Ticket,
    test: Split,
    settings: EvaluateSettings,
    train: TrainSettings,
    stream: streams.Name,
    device: torch.device,
    prepare: Prepare | None = None,
) -> dict[str, Any]:
    """Return metrics of the averaged predictive of S samples, averaged over R repeats; densities; drift of log_std.

    prepare: makes stored inputs into what the network takes, as `Dataset.prepare`.
    Raises TombolaError if the ticket is untrained or of another model.
    """
    q, state = ticket.posterior, ticket.trained
    assert state is not None  # `posterior` has checked it
    inputs, targets = test
    state_there, rows = state.to(device), []
    for repeat in range(settings.repeats):
        out = outputs(
            module,
            state_there,
            inputs,
            samples=settings.samples,
            stream=(*stream, repeat),
            batch=settings.batch_size,
            batch_norm=settings.batch_norm,
            precision=settings.precision,
            channels_last=settings.channels_last,
            prepare=prepare,
        ).cpu()
        if targets.is_floating_point():
            noise_std = math.exp(likelihood_of(train, state).state_dict()["log_noise"].item())
            rows.append(metrics.regression(out.view(len(out), *targets.shape), noise_std, targets))
        else:
            probs = Prediction(out.double().softmax(-1)).probs_SBC
            generator = streams.generator("null", *stream, repeat)
            rows.append(
                metrics.classification(probs, targets, bins=settings.bins, redraws=settings.redraws, generator=generator)
            )
    return {
        **metrics.mean_over_repeats(rows),
        **_drift(ticket),
        "density": ticket.density,
        "density_all": ticket.density_all,
        "layer_density": json.dumps(ticket.layer_density()),
        "samples": 1 if q.std is None else settings.samples,
        "repeats": settings.repeats,
        "examples": len(targets),
    }


def _drift(ticket: Ticket) -> dict[str, float]:
    """Return the change of log_std from the start of this training to its end, over the surviving random weights."""
    before, after = ticket.rewind.posterior, ticket.posterior
    if before.std is None or after.std is None:
        return {}
    smallest = torch.finfo(after.mean.dtype).tiny
    first, last = (std.clamp(min=smallest).double().log() for std in (before.std, after.std))
    return metrics.log_std_drift(first, last, after.mask & after.layout.is_random.to(after.mask.device))
