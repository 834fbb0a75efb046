"""Evaluation: the metrics of a trained ticket, one record."""

import json
import math
from typing import Any

import torch
from torch import Tensor, nn

from tombola import metrics, streams
from tombola.data import Split
from tombola.data.batches import Prepare
from tombola.posterior.predictive import Prediction, outputs, sample_statistics
from tombola.pruning.ticket import Ticket
from tombola.settings import EvaluateSettings, TrainSettings

from .reference import stored_reference
from .work import likelihood_of


def evaluate_ticket(
    module: nn.Module,
    ticket: Ticket,
    test: Split,
    training: Tensor,
    settings: EvaluateSettings,
    train: TrainSettings,
    stream: streams.Name,
    device: torch.device,
    prepare: Prepare | None = None,
) -> dict[str, Any]:
    """Return metrics of the averaged predictive of S samples, averaged over R repeats; densities; drift of log_std.

    training: stored training inputs [N, ...]: batch-norm statistics of each weight sample are measured on some of them,
        unless the settings choose others. A point has its running ones.
    prepare: makes stored inputs into what the network takes, as `Dataset.prepare`.
    Raises TombolaError if the ticket is untrained or of another model.
    """
    q, state = ticket.posterior, ticket.trained
    assert state is not None  # `posterior` has checked it
    inputs, targets = test
    state_there, rows = state.to(device), []
    passes: dict[str, Any] = {name: getattr(settings, name) for name in ("samples", "precision", "channels_last")}
    own = settings.batch_norm == "samples" and q.std is not None
    reference = stored_reference(training, prepare, device) if own else []
    for repeat in range(settings.repeats):
        statistics = sample_statistics(module, state_there, reference, stream=(*stream, repeat), **passes) if own else None
        out = outputs(
            module,
            state_there,
            inputs,
            stream=(*stream, repeat),
            batch=settings.batch_size,
            batch_norm=settings.batch_norm,
            statistics=statistics,
            prepare=prepare,
            **passes,
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
        **_drift(ticket, device),
        "density": ticket.density,
        "density_all": ticket.density_all,
        "layer_density": json.dumps(ticket.layer_density()),
        "samples": 1 if q.std is None else settings.samples,
        "repeats": settings.repeats,
        "examples": len(targets),
        **({} if targets.is_floating_point() else {"classes": out.shape[-1]}),
    }


def _drift(ticket: Ticket, device: torch.device) -> dict[str, float]:
    """Return the change of log_std from the start of this training to its end, over the surviving random weights."""
    before, after = ticket.rewind.posterior, ticket.posterior
    if before.std is None or after.std is None:
        return {}
    smallest = torch.finfo(after.mean.dtype).tiny
    first, last = (std.to(device).clamp(min=smallest).double().log() for std in (before.std, after.std))
    return metrics.log_std_drift(first, last, (after.mask & after.layout.is_random.to(after.mask.device)).to(device))
