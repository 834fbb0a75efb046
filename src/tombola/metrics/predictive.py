"""Accuracy and uncertainty of predictions: classification from probabilities, regression from means.

Legend: B examples, C classes, S weight samples. All computing is in float64 on the CPU; every result is a Python float.
The functions that take `probs` and `labels_B` raise ValueError as `inputs.as_probs` and `inputs.as_labels` do.
"""

import math

import torch
from torch import Tensor

from .inputs import as_float64, as_labels, as_probs, same_shape

_SMALLEST = torch.finfo(torch.float64).tiny  # the smallest positive normal, 2.2e-308


def accuracy(probs_BC: Tensor, labels_B: Tensor) -> float:
    """Return the share of examples whose most probable class is the label, in [0, 1]. Of equal classes the first counts."""
    probs_BC = as_probs(probs_BC, "BC")
    labels_B = as_labels(labels_B, probs_BC)
    return (probs_BC.argmax(1) == labels_B).double().mean().item()


def nll(probs_BC: Tensor, labels_B: Tensor) -> float:
    """Return the mean of -log p(label) over the examples, in nats.

    Probabilities are clamped at the smallest positive normal of float64 (2.2e-308), so that an impossible label
    costs 708.4 nats and not infinity.
    """
    probs_BC = as_probs(probs_BC, "BC")
    labels_B = as_labels(labels_B, probs_BC)
    return -probs_BC.gather(1, labels_B[:, None]).clamp(min=_SMALLEST).log().mean().item()


def brier(probs_BC: Tensor, labels_B: Tensor) -> float:
    """Return the mean over the examples of sum_c (p_c - 1[label = c])^2, in [0, 2]. Brier 1950, eq. 2."""
    probs_BC = as_probs(probs_BC, "BC")
    labels_B = as_labels(labels_B, probs_BC)
    truth_BC = torch.zeros_like(probs_BC).scatter_(1, labels_B[:, None], 1.0)
    return (probs_BC - truth_BC).square().sum(1).mean().item()


def predictive_entropy(probs_BC: Tensor) -> float:
    """Return the mean over the examples of the entropy -sum_c p_c log p_c, in nats."""
    return _entropy(as_probs(probs_BC, "BC")).mean().item()


def mutual_information(probs_SBC: Tensor) -> float:
    """Return the mean over the examples of H(mean_s p_s) - mean_s H(p_s), in nats: the disagreement of weight samples.

    Never below 0: rounding alone could take it there. Houlsby et al. 2011, eq. 2.
    """
    probs_SBC = as_probs(probs_SBC, "SBC")
    information_B = _entropy(probs_SBC.mean(0)) - _entropy(probs_SBC).mean(0)
    return max(information_B.mean().item(), 0.0)


def rmse(mean_B: Tensor, target_B: Tensor) -> float:
    """Return the root of the mean squared error over all entries, in the target's unit. More dimensions may follow B.

    Raises ValueError if the shapes differ or are empty.
    """
    same_shape("mean_B", mean_B, target_B)
    return (as_float64(mean_B) - as_float64(target_B)).square().mean().sqrt().item()


def gaussian_nll(means_SB: Tensor, noise_std: float, target_B: Tensor) -> float:
    """Return the mean over the examples of -log( mean_s N(y; m_s, noise_std^2) ), in nats.

    Dimensions after B are outputs of one example: N is then their joint density, independent given the weights.
    Raises ValueError if means and target do not fit, S or B is 0, or noise_std is not positive and finite.
    """
    if not 0 < noise_std < math.inf:
        raise ValueError(f"noise_std is {noise_std}, it must be positive and finite")
    if means_SB.ndim < 2 or len(means_SB) == 0:
        raise ValueError(f"means_SB has shape {tuple(means_SB.shape)}, at least one sample of B means is needed")
    same_shape("each sample of means_SB", means_SB[0], target_B)
    errors_SB = (as_float64(target_B) - as_float64(means_SB)) / noise_std
    log_density_SB = -0.5 * errors_SB.square() - math.log(noise_std) - 0.5 * math.log(2 * math.pi)
    joint_SB = log_density_SB.flatten(start_dim=1).unflatten(1, (target_B.shape[0], -1)).sum(-1)
    return math.log(len(means_SB)) - joint_SB.logsumexp(0).mean().item()


def _entropy(probs: Tensor) -> Tensor:
    """Return the entropy over the last dimension, in nats; 0 log 0 is 0."""
    return torch.special.entr(probs).sum(-1)
