"""Rank correlation.

Legend: K rankings, N things that are ranked.
"""

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from tombola.metrics.inputs import as_float64

_FEWEST_TO_RANK = 3  # two things always correlate by -1 or 1


def spearman(values_KN: Tensor) -> Tensor:
    """[K, K], float64: Spearman's rank correlation of each pair of rows, with average ranks for ties; infinities rank.

    NaN where a row is constant, and everywhere for fewer than three columns. Raises ValueError for NaN or another shape.
    """
    if values_KN.ndim != 2:
        raise ValueError(f"values_KN has shape {tuple(values_KN.shape)}, two dimensions are needed")
    if bool(values_KN.isnan().any()):
        raise ValueError("values_KN holds NaN, which has no rank")
    rows, columns = values_KN.shape
    if columns < _FEWEST_TO_RANK:
        return torch.full((rows, rows), float("nan"), dtype=torch.float64)
    ranks_KN = np.stack([rankdata(row) for row in as_float64(values_KN).numpy()])
    centred_KN = ranks_KN - ranks_KN.mean(1, keepdims=True)
    norms_K = np.linalg.norm(centred_KN, axis=1)
    with np.errstate(invalid="ignore"):  # 0/0 is NaN: of a constant
        found = (centred_KN @ centred_KN.T) / np.outer(norms_K, norms_K)
    return torch.from_numpy(found).clamp(-1, 1)
