"""Evaluation: the metrics of a trained ticket, one record."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tombola import metrics, streams
from tombola.data import Split
from tombola.data.batches import Prepare
from tombola.errors import TombolaError
from tombola.posterior.families import draws_of
from tombola.posterior.predictive import outputs, sample_statistics
from tombola.pruning.estimators import estimated
from tombola.pruning.ticket import Ticket
from tombola.settings import EvaluateSettings, TrainSettings

from .further import Further
from .measures import Measured, measured
from .reference import stored_reference
from .scored import noise_of, probs_of, scored


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
    further: Further | None = None,
) -> dict[str, Any]:
    """Return metrics of the averaged predictive of S samples, averaged over R repeats; densities; drift of log_std.

    training: stored training inputs [N, ...]: batch-norm statistics of each weight sample are measured on some of them,
        unless the settings choose others. A point has its running ones.
    prepare: makes stored inputs into what the network takes, as `Dataset.prepare`.
    further: the examples that `settings.measures` look at, by `further_of`; not needed without measures.
    Raises TombolaError if the ticket is untrained or of another model, and for outputs that are NaN.
    """
    q, state = ticket.posterior, ticket.trained
    assert state is not None  # `posterior` has checked it
    inputs, targets = test
    state_there, rows = state.to(device), []
    passes: dict[str, Any] = {name: getattr(settings, name) for name in ("samples", "precision", "channels_last")}
    how: dict[str, Any] = passes | {"batch": settings.batch_size, "batch_norm": settings.batch_norm, "prepare": prepare}
    own = settings.batch_norm == "samples" and q.std is not None
    by_moments = settings.estimator == "moments" and draws_of(q, settings.samples) > 1  # a point has no variance
    reference = stored_reference(training, prepare, device) if own else []
    for repeat in range(settings.repeats):
        words, generator = (*stream, repeat), streams.generator("null", *stream, repeat)
        # of one stream all outputs are of the same weight samples, or of the same draws from moments
        predict: Callable[[Tensor], Tensor]
        if by_moments:
            predict = partial(_by_moments, ticket, module, settings, words, reference, prepare)
        else:
            statistics = sample_statistics(module, state_there, reference, stream=words, **passes) if own else None
            predict = partial(outputs, module, state_there, stream=words, statistics=statistics, **how)
        out = predict(inputs).cpu()
        if bool(out.isnan().any()):
            raise TombolaError(f"{type(module).__name__} has outputs that are NaN: its weights or statistics are damaged")
        row = scored(out, targets, train, state, settings, generator)
        if settings.measures:
            assert further is not None
            noise = noise_of(train, state) if train.likelihood == "gaussian" else None
            row |= measured(Measured(out, targets, predict, further, settings, train, noise, generator))
        rows.append(row)
    return {
        **metrics.mean_over_repeats(rows),
        **_drift(ticket, device),
        "density": ticket.density,
        "density_all": ticket.density_all,
        "layer_density": json.dumps(ticket.layer_density()),
        "samples": len(out),
        "repeats": settings.repeats,
        "examples": len(targets),
        **({} if (probs := probs_of(out[:1, :1], train)) is None else {"classes": probs.shape[-1]}),
    }


def _by_moments(
    ticket: Ticket,
    module: nn.Module,
    settings: EvaluateSettings,
    words: streams.Name,
    reference: list[Any],
    prepare: Prepare | None,
    inputs: Tensor,
) -> Tensor:
    """Return outputs [S, B, ...] drawn from moments, for stored inputs."""
    training = reference[0] if reference else None
    inputs = prepare(inputs) if prepare else inputs
    how: dict[str, Any] = {"samples": settings.samples, "seed": words, "batch": settings.batch_size}
    return estimated("moments", ticket, module, inputs, training=training, **how)


def _drift(ticket: Ticket, device: torch.device) -> dict[str, float]:
    """Return the change of log_std from the start of this training to its end, over the surviving random weights."""
    before, after = ticket.rewind.posterior, ticket.posterior
    if before.std is None or after.std is None:
        return {}
    smallest = torch.finfo(after.mean.dtype).tiny
    first, last = (std.to(device).clamp(min=smallest).double().log() for std in (before.std, after.std))
    return metrics.log_std_drift(first, last, (after.mask & after.layout.is_random.to(after.mask.device)).to(device))
