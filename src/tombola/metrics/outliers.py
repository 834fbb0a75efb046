"""Detection of outliers by uncertainty: inputs that are none of the classes should be less sure than test examples.

Outliers are the positives. Scores are equal to scikit-learn's, which computes them; examples that tie count half.

Legend: N test examples, M outliers.
"""

import numpy as np
from torch import Tensor

from .inputs import as_float64

RECALL = 0.95
"""Share of test examples that are taken for what they are where `fpr95` is read off (Liang et al. 2018)."""


def auroc(inside_N: Tensor, outside_M: Tensor) -> float:
    """Return the chance that an outlier is less sure than a test example, ties counted half: 0.5 by guessing, 1 at best.

    Both are uncertainties, higher where less sure. Raises ValueError if one is empty, not flat or not finite.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_joined(inside_N, outside_M)))


def aupr(inside_N: Tensor, outside_M: Tensor) -> float:
    """Return the average precision with which outliers are found; guessing has M / (N + M). Arguments as of `auroc`."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*_joined(inside_N, outside_M)))


def fpr95(inside_N: Tensor, outside_M: Tensor) -> float:
    """Return the share of outliers that pass for test examples where at least 95% of these pass: lower is better.

    The threshold is the smallest uncertainty at or below which 95% of the test examples lie. Arguments as of `auroc`.
    """
    is_outside, uncertainty = _joined(inside_N, outside_M)
    inside, outside = uncertainty[~is_outside], uncertainty[is_outside]
    threshold = np.quantile(inside, RECALL, method="inverted_cdf")
    return float((outside <= threshold).mean())


def _joined(inside_N: Tensor, outside_M: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return (bool, uncertainty) of all examples."""
    parts = []
    for name, values in (("inside_N", inside_N), ("outside_M", outside_M)):
        if values.ndim != 1 or not len(values):
            raise ValueError(f"{name} has shape {tuple(values.shape)}, one dimension with at least one example is needed")
        parts.append(as_float64(values).numpy())
        if not np.isfinite(parts[-1]).all():
            raise ValueError(f"{name} holds a number that is not finite")
    return np.repeat([False, True], [len(parts[0]), len(parts[1])]), np.concatenate(parts)
