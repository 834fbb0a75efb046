"""Predictions of counts: mixtures of Poisson distributions, one component a weight sample.

Legend: S weight samples, B examples; more dimensions may follow B: outputs of one example.
"""

import math

import torch
from torch import Tensor

from .inputs import as_float64, same_shape
from .predictive import rmse


def counts(log_rates_SB: Tensor, target_B: Tensor) -> dict[str, float]:
    """Return nll of the mixture over the samples, in nats, and deviance and rmse of the samples' mean rate.

    nll: mean over the examples of -log mean_s prod Poisson(y; rate_s), the product over an example's outputs. deviance: mean
    over all entries of 2 (y log(y / rate) - y + rate), that of scikit-learn's mean_poisson_deviance. Raises ValueError for
    shapes that do not fit and for targets that are no counts.
    """
    if log_rates_SB.ndim < 2 or not len(log_rates_SB):
        raise ValueError(f"log_rates_SB has shape {tuple(log_rates_SB.shape)}, at least one sample of B rates is needed")
    same_shape("each sample of log_rates_SB", log_rates_SB[0], target_B)
    y, log_rate_SB = as_float64(target_B), as_float64(log_rates_SB)
    if not bool(((y >= 0) & (y == y.floor()) & y.isfinite()).all()):
        raise ValueError("target_B holds a number that is no count")
    log_mass_SB = y * log_rate_SB - log_rate_SB.exp() - torch.lgamma(y + 1)
    joint_SB = log_mass_SB.flatten(start_dim=1).unflatten(1, (len(y), -1)).sum(-1)
    log_mean_B = log_rate_SB.logsumexp(0) - math.log(len(log_rate_SB))
    deviance = 2 * (torch.special.xlogy(y, y) - y * log_mean_B - y + log_mean_B.exp())
    return {
        "nll": math.log(len(joint_SB)) - joint_SB.logsumexp(0).mean().item(),
        "deviance": deviance.mean().item(),
        "rmse": rmse(log_mean_B.exp(), y),
    }
