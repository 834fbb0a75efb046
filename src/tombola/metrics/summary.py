"""One row of metrics for one evaluated model, and the mean of such rows over repeated evaluations.

Legend: B examples, C classes, S weight samples.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .calibration import CALIBRATION, against_null
from .inputs import as_float64, as_probs
from .predictive import accuracy, brier, gaussian_nll, mutual_information, nll, predictive_entropy, rmse


def classification(
    probs_SBC: Tensor, labels_B: Tensor, *, bins: int = 15, redraws: int = 100, generator: torch.Generator
) -> dict[str, float]:
    """Return every classification metric of the predictive, the mean of the samples' probabilities.

    Keys: accuracy, nll, brier, predictive_entropy, mutual_information, and for each m of CALIBRATION its value `m`, its
    null `m_null`, `m_null_low`, `m_null_high`, its `m_excess` and `m_empty_bins`. `generator` (CPU) redraws the labels
    of the nulls. Raises ValueError as the metrics do.
    """
    probs_SBC = as_probs(probs_SBC, "SBC")
    probs_BC = probs_SBC.mean(0)
    row = {
        "accuracy": accuracy(probs_BC, labels_B),
        "nll": nll(probs_BC, labels_B),
        "brier": brier(probs_BC, labels_B),
        "predictive_entropy": predictive_entropy(probs_BC),
        "mutual_information": mutual_information(probs_SBC),
    }
    for name, metric in CALIBRATION.items():
        row |= against_null(metric, probs_BC, labels_B, bins, redraws, generator).row(name)
    return row


def regression(means_SB: Tensor, noise_std: float, target_B: Tensor) -> dict[str, float]:
    """Return nll of the mixture over the samples, in nats, and rmse of their mean, in the target's unit.

    Raises ValueError as `gaussian_nll` does.
    """
    return {
        "nll": gaussian_nll(means_SB, noise_std, target_B),
        "rmse": rmse(as_float64(means_SB).mean(0), target_B),
    }


def mean_over_repeats(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each key over the rows, and `accuracy_sd`.

    `accuracy_sd` is the standard deviation of accuracy over the rows (ddof 1), NaN for one row or without accuracy.
    Raises ValueError if there is no row or the rows' keys differ.
    """
    if not rows:
        raise ValueError("rows is empty, at least one repeat is needed")
    for row in rows:
        if row.keys() != rows[0].keys():
            raise ValueError(f"rows differ in the keys {sorted(row.keys() ^ rows[0].keys())}")
    columns = {key: torch.tensor([row[key] for row in rows], dtype=torch.float64) for key in rows[0]}
    means = {key: values.mean().item() for key, values in columns.items()}
    known = "accuracy" in columns and len(rows) > 1
    return means | {"accuracy_sd": columns["accuracy"].std(correction=1).item() if known else math.nan}
