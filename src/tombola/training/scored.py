"""Metrics of a network's outputs, by the likelihood of the targets.

Legend: S weight samples, B examples, C classes.
"""

import math
from typing import Any

import torch
from torch import Tensor

from tombola import metrics
from tombola.data import Dataset
from tombola.errors import TombolaError
from tombola.posterior.predictive import classes_of
from tombola.posterior.state import State
from tombola.settings import EvaluateSettings, TrainSettings

from .work import likelihood_of


def check_targets(likelihood: str, data: Dataset) -> None:
    """Raise TombolaError if targets of the data set cannot have the likelihood."""
    if (likelihood == "categorical") != data.is_classification:
        wanted = "'categorical'" if data.is_classification else "'gaussian', 'bernoulli' or 'poisson'"
        raise TombolaError(f"train.likelihood is {likelihood!r}; data {data.name!r} needs {wanted}")
    for _, targets in (data.train, data.validation, data.test):
        if likelihood == "bernoulli":
            wrong, wanted = (targets != 0) & (targets != 1), "0 and 1"
        elif likelihood == "poisson":
            wrong, wanted = (targets < 0) | (targets != targets.floor()), "whole numbers of at least 0"
        else:
            continue
        if bool(wrong.any()):
            raise TombolaError(
                f"train.likelihood is {likelihood!r}, but data {data.name!r} has the target {targets[wrong][0].item():g}; "
                f"give {wanted}"
            )


def probs_of(out: Tensor, train: TrainSettings) -> Tensor | None:
    """Return class probabilities [S, B, C] in float64 of outputs on the CPU; None where targets are no classes.

    A Bernoulli target is one of two classes; several of an example count as an example each.
    """
    if train.likelihood == "categorical":
        return classes_of(out).probs_SBC
    if train.likelihood == "bernoulli":
        logits_SB = out.double().flatten(1)
        return torch.stack([-logits_SB, logits_SB], -1).sigmoid()
    return None


def labels_of(targets: Tensor) -> Tensor:
    """Return the labels [B] that `probs_of` is compared with."""
    return targets.flatten().long() if targets.is_floating_point() else targets


def noise_of(train: TrainSettings, state: State) -> float:
    """Return the standard deviation of the Gaussian likelihood, as the state has learned it."""
    return math.exp(likelihood_of(train, state).state_dict()["log_noise"].item())


def scored(
    out: Tensor,
    targets: Tensor,
    train: TrainSettings,
    state: State,
    settings: EvaluateSettings,
    generator: torch.Generator,
) -> dict[str, float]:
    """Return the metrics of outputs [S, B, ...], on the CPU. generator: redraws labels of the calibration nulls."""
    probs = probs_of(out, train)
    if probs is None:
        return scored_reals(out, targets, train, state)
    how: dict[str, Any] = {"bins": settings.bins, "redraws": settings.redraws, "generator": generator}
    return metrics.classification(probs, labels_of(targets), **how)


def scored_reals(out: Tensor, targets: Tensor, train: TrainSettings, state: State) -> dict[str, float]:
    """Return the metrics of a regression, or of counts."""
    shaped = out.view(len(out), *targets.shape)
    if train.likelihood == "poisson":
        return metrics.counts(shaped, targets)
    return metrics.regression(shaped, noise_of(train, state), targets)
