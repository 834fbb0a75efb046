"""Calibration: distances of confidence from accuracy, beside the score of a perfectly calibrated model.

Legend: B examples, C classes, R redraws of the labels, K bins. All computing is in float64 on the CPU.

The K bins have equal width and are right-closed, (k/K, (k+1)/K]; a confidence of 0 is in the first. Those of adaptive ECE
have equally many points instead. A *point* is a pair of an example and a class; it is a *hit* if the class is the label. A
metric is the choice of its points, of its bins, and a reduction of the points' sums in each bin. Those sums are taken for R
label vectors at once, so the metric is the case R = 1 of its null.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .inputs import as_labels, as_probs

_FEWEST_REDRAWS = 100  # fewer leave two redraws or less beyond each end of the 95% range


@dataclass(frozen=True)
class Tally:
    """The points of each bin, and the hits among them for each of R label vectors."""

    points: Tensor  # K
    confidence: Tensor  # K, summed over the points
    hits: Tensor  # R x K


Place = Callable[[Tensor, Tensor, int], Tensor]
"""Function (is_point_BC, probs_BC, bins) -> bin of each pair, [B, C]; that of pairs which are no points does not count."""


def equal_width(is_point_BC: Tensor, probs_BC: Tensor, bins: int) -> Tensor:
    """Return the bin (k/K, (k+1)/K] of each probability."""
    # edges as quotients, not ceil(p * bins): 0.07 * 100 is above 7, which would lift an edge into the next bin
    return torch.bucketize(probs_BC, torch.arange(1, bins, dtype=torch.float64) / bins)


def equal_mass(is_point_BC: Tensor, probs_BC: Tensor, bins: int) -> Tensor:
    """Return the bins that hold equally many points, but for one, in the order of their probabilities; ties by place."""
    order = probs_BC.where(is_point_BC, 2.0).flatten().argsort(stable=True)  # pairs that are no points come last
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return (rank * bins // int(is_point_BC.sum())).view_as(probs_BC)


@dataclass(frozen=True)
class BinnedMetric:
    """A calibration metric in [0, 1], called as `metric(probs_BC, labels_B, bins)`."""

    points: Callable[[Tensor], Tensor]
    """Function of probs_BC that returns True for each (example, class) pair that is a point."""

    reduce: Callable[[Tally], Tensor]
    """Function of the bins' sums that returns values_R."""

    place: Place = equal_width

    def __call__(self, probs_BC: Tensor, labels_B: Tensor, bins: int) -> float:
        """Return the metric. Raises ValueError if bins < 1, and as `inputs.as_probs` and `inputs.as_labels` do."""
        probs_BC = as_probs(probs_BC, "BC")
        labels_B = as_labels(labels_B, probs_BC)
        return self.reduce(_tally(self, probs_BC, labels_B[:, None], bins)).item()


@dataclass(frozen=True)
class Calibration:
    """A metric's value beside its null, the distribution for a perfectly calibrated model of the same predictions."""

    value: float
    null_mean: float
    null_low: float  # the 2.5% quantile
    null_high: float  # the 97.5% quantile
    excess: float  # value - null_mean
    empty_bins: int  # bins without a point

    def row(self, name: str) -> dict[str, float]:
        """Return the numbers by the columns of the metric of that name."""
        return {
            name: self.value,
            f"{name}_null": self.null_mean,
            f"{name}_null_low": self.null_low,
            f"{name}_null_high": self.null_high,
            f"{name}_excess": self.excess,
            f"{name}_empty_bins": float(self.empty_bins),
        }


def against_null(
    metric: BinnedMetric, probs_BC: Tensor, labels_B: Tensor, bins: int, redraws: int, generator: torch.Generator
) -> Calibration:
    """Return the metric and its null: the labels redrawn `redraws` times from the model's own probabilities.

    `generator` is a CPU generator, wherever the tensors are. Raises ValueError if redraws < 100 and as the metric does.
    """
    if redraws < _FEWEST_REDRAWS:
        raise ValueError(f"redraws is {redraws}, at least {_FEWEST_REDRAWS} are needed")
    probs_BC = as_probs(probs_BC, "BC")
    labels_B = as_labels(labels_B, probs_BC)
    redrawn_BR = torch.multinomial(probs_BC, redraws, replacement=True, generator=generator)
    # the true labels are the first of 1 + redraws vectors, so that the points are binned once
    labels_BR = torch.cat([labels_B[:, None], redrawn_BR], dim=1)
    tally = _tally(metric, probs_BC, labels_BR, bins)
    values_R = metric.reduce(tally)
    value, null_R = values_R[0].item(), values_R[1:]
    null_mean = null_R.mean().item()
    null_low, null_high = null_R.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    empty_bins = int((tally.points == 0).sum())
    return Calibration(value, null_mean, null_low, null_high, value - null_mean, empty_bins)


def _tally(metric: BinnedMetric, probs_BC: Tensor, labels_BR: Tensor, bins: int) -> Tally:
    if bins < 1:
        raise ValueError(f"bins is {bins}, at least 1 is needed")
    is_point_BC = metric.points(probs_BC)
    bin_BC = metric.place(is_point_BC, probs_BC, bins).where(is_point_BC, bins)  # an extra bin holds all other pairs
    points = bin_BC.flatten().bincount(minlength=bins + 1)
    confidence = bin_BC.flatten().bincount(weights=probs_BC.flatten(), minlength=bins + 1)
    # each example has one label, so at most one hit: no tensor of R x B x C is needed
    redraws = labels_BR.shape[1]
    hit_BR = bin_BC.gather(1, labels_BR) + torch.arange(redraws) * (bins + 1)
    hits = hit_BR.flatten().bincount(minlength=redraws * (bins + 1)).view(redraws, bins + 1)
    # whole numbers in float64, because torch divides integers in float32
    return Tally(points[:bins].double(), confidence[:bins], hits[:, :bins].double())


def _top_label(probs_BC: Tensor) -> Tensor:
    """Return one point an example, its most probable class; of equal classes the first one."""
    return torch.zeros_like(probs_BC, dtype=torch.bool).scatter_(1, probs_BC.argmax(1, keepdim=True), True)


def _every_class(probs_BC: Tensor) -> Tensor:
    return torch.ones_like(probs_BC, dtype=torch.bool)


def _weighted_gap(tally: Tally) -> Tensor:
    return (tally.hits - tally.confidence).abs().sum(1) / tally.points.sum()


def _mean_gap(tally: Tally) -> Tensor:
    filled_K = tally.points > 0
    gap_RK = (tally.hits - tally.confidence).abs() / tally.points
    return gap_RK[:, filled_K].mean(1)


def _mean_gap_to_centre(tally: Tally) -> Tensor:
    filled_K = tally.points > 0
    bins = len(tally.points)
    centre_K = (torch.arange(bins, dtype=torch.float64) + 0.5) / bins
    gap_RK = (tally.hits / tally.points - centre_K).abs()
    return gap_RK[:, filled_K].mean(1)


ece = BinnedMetric(_top_label, _weighted_gap)
"""Top label: mean over bins, weighted by their points, of abs(accuracy - confidence). Guo et al. 2017, eq. 3."""

mace = BinnedMetric(_top_label, _mean_gap)
"""Top label: unweighted mean over bins of abs(mean(correct - confidence)), as printed in arXiv 2602.18825.

The paper has no rule for an empty bin; here it is left out of the mean.
"""

mace_coded = BinnedMetric(_every_class, _mean_gap_to_centre)
"""Every class: unweighted mean over bins of abs(mean(correct) - bin centre), as in the code of arXiv 2602.18825.

Its code gives NaN where a bin is empty; here that bin is left out of the mean. A calibrated model's value is not 0 even
without noise, because the centre of a bin is not the mean of its confidences: compare with the null.
"""

adaptive_ece = BinnedMetric(_top_label, _weighted_gap, equal_mass)
"""Top label: as `ece`, with bins of equally many examples. Nguyen and O'Connor 2015; Nixon et al. 2019, section 4."""

CALIBRATION: dict[str, BinnedMetric] = {"ece": ece, "mace": mace, "mace_coded": mace_coded}
