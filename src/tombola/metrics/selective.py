"""Selective prediction: the error that is left when the least sure predictions are rejected.

The *coverage* is the share of examples that are answered, the *risk* the error rate among them. Examples of equal
uncertainty are answered in random order: every result is the expectation over these orders.

Legend: B examples.
"""

import math

import torch
from torch import Tensor

from .inputs import as_float64


def aurc(uncertainty_B: Tensor, wrong_B: Tensor) -> float:
    """Return the area under the risk-coverage curve, in [0, 1]: the mean of the risks of the k surest, k = 1..B.

    uncertainty_B: any real score, low where the prediction is sure. wrong_B: bool. Geifman and El-Yaniv 2017, AURC as in
    Geifman et al. 2019. Raises ValueError for shapes that differ or are not flat, no example, NaN, and other dtypes.
    """
    return _risks(uncertainty_B, wrong_B).mean().item()


def excess_aurc(uncertainty_B: Tensor, wrong_B: Tensor) -> float:
    """Return AURC less that of the best order, in which all wrong predictions come last: 0 for a perfect ranking.

    E-AURC of Geifman et al. 2019, with the exact sum over k in place of its limit r + (1 - r) log(1 - r).
    """
    found = aurc(uncertainty_B, wrong_B)
    return found - _risks(wrong_B.double(), wrong_B).mean().item()


def risk_at_coverage(uncertainty_B: Tensor, wrong_B: Tensor, coverage: float) -> float:
    """Return the error rate of the surest predictions, as few as make up at least the share `coverage`, in (0, 1]."""
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage is {coverage}, it must be above 0 and at most 1")
    risks_B = _risks(uncertainty_B, wrong_B)
    answered = math.ceil(round(coverage * len(risks_B), 9))  # 0.07 * 100 is above 7
    return risks_B[answered - 1].item()


def _risks(uncertainty_B: Tensor, wrong_B: Tensor) -> Tensor:
    """Return the risk among the k surest for k = 1..B, [B]."""
    if uncertainty_B.ndim != 1 or uncertainty_B.shape != wrong_B.shape or not len(wrong_B):
        raise ValueError(
            f"uncertainty_B has shape {tuple(uncertainty_B.shape)}, wrong_B {tuple(wrong_B.shape)}: not one [B]"
        )
    if wrong_B.dtype != torch.bool:
        raise ValueError(f"wrong_B has dtype {wrong_B.dtype}, bool is needed")
    uncertainty_B = as_float64(uncertainty_B)
    if uncertainty_B.isnan().any():
        raise ValueError("uncertainty_B holds NaN, which has no rank")
    # unique values are sorted; an example among equals is wrong with the share of wrong ones among them
    _, place_B, count_K = uncertainty_B.unique(return_inverse=True, return_counts=True)
    wrong_K = place_B.bincount(weights=as_float64(wrong_B), minlength=len(count_K))
    expected_B = (wrong_K / count_K).repeat_interleave(count_K)
    return expected_B.cumsum(0) / torch.arange(1, len(expected_B) + 1)
