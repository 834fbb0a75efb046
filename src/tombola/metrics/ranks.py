"""Rank correlation.

Legend: K rankings, N things that are ranked.
"""

import torch
from torch import Tensor

_FEWEST_TO_RANK = 3  # two things always correlate by -1 or 1


def spearman(values_KN: Tensor) -> Tensor:
    """Return [K, K], float64: Spearman's rank correlation of each pair of rows; average ranks for ties; infinities rank.

    NaN where a row is constant, and everywhere for fewer than three columns. Raises ValueError for NaN or another shape.
    """
    if values_KN.ndim != 2:
        raise ValueError(f"values_KN has shape {tuple(values_KN.shape)}, two dimensions are needed")
    if bool(values_KN.isnan().any()):
        raise ValueError("values_KN holds NaN, which has no rank")
    rows, columns = values_KN.shape
    if columns < _FEWEST_TO_RANK:
        return torch.full((rows, rows), float("nan"), dtype=torch.float64)
    ranks_KN = torch.stack([_ranks(row) for row in values_KN.detach().double()])
    centred_KN = ranks_KN - ranks_KN.mean(1, keepdim=True)
    norms_K = centred_KN.norm(dim=1)
    # a constant row has norm 0, and 0/0 is NaN
    return (centred_KN @ centred_KN.T / torch.outer(norms_K, norms_K)).clamp(-1, 1)


def _ranks(values_N: Tensor) -> Tensor:
    """Return ranks, [N], float64, from 1; equal values share the mean of their ranks."""
    _, place, counts = values_N.unique(return_inverse=True, return_counts=True)
    counts = counts.double()
    return (counts.cumsum(0) - (counts - 1) / 2)[place]
