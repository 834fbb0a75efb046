"""Split conformal prediction: sets of classes, or intervals, that contain the truth with a chance that is chosen.

Calibration examples are held out from training. If they and the measured examples are exchangeable, a set covers the truth
with a chance of at least `coverage`, and of at most `coverage` + 1 / (N + 1) where no two scores tie (Vovk et al. 2005).

Legend: N calibration examples, B measured examples, C classes.
"""

import math

from torch import Tensor

from .inputs import as_float64, as_labels, as_probs


def conformal_threshold(scores_N: Tensor, coverage: float) -> float:
    """Return the ceil((N + 1) coverage)-th smallest score; infinity where that is more than N: then a set has everything.

    scores_N: distances of the calibration examples' truth from their prediction. Raises ValueError for no score, NaN, and a
    coverage outside (0, 1).
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage is {coverage}, it must be above 0 and below 1")
    if scores_N.ndim != 1 or not len(scores_N) or scores_N.isnan().any():
        raise ValueError(f"scores_N has shape {tuple(scores_N.shape)}; at least one score is needed, none of them NaN")
    rank = math.ceil(round((len(scores_N) + 1) * coverage, 9))
    return math.inf if rank > len(scores_N) else as_float64(scores_N).kthvalue(rank).values.item()


def prediction_sets(probs_BC: Tensor, threshold: float) -> Tensor:
    """Return the classes of each set, bool [B, C]: those with 1 - p_c <= threshold. A set may be empty."""
    return 1 - as_probs(probs_BC, "BC") <= threshold


def conformal_classes(
    probs_NC: Tensor, labels_N: Tensor, probs_BC: Tensor, labels_B: Tensor, coverage: float = 0.9
) -> dict[str, float]:
    """Return conformal_coverage, the share of sets with the label, and conformal_size, their mean number of classes.

    The score of an example is 1 - p(label) (Sadinle et al. 2019, LAC): the smallest sets on average, which cover easy
    examples more often than hard ones. The first two arguments calibrate. Raises ValueError as `inputs` does.
    """
    own_NC = as_probs(probs_NC, "BC")
    own_N = 1 - own_NC.gather(1, as_labels(labels_N, own_NC)[:, None])[:, 0]
    inside_BC = prediction_sets(probs_BC, conformal_threshold(own_N, coverage))
    covered_B = inside_BC.gather(1, as_labels(labels_B, probs_BC)[:, None])
    return {
        "conformal_coverage": covered_B.double().mean().item(),
        "conformal_size": inside_BC.double().sum(1).mean().item(),
    }


def conformal_interval(
    mean_N: Tensor, target_N: Tensor, mean_B: Tensor, target_B: Tensor, coverage: float = 0.9
) -> dict[str, float]:
    """Return conformal_coverage and conformal_width of intervals mean +- threshold, over all entries of the target.

    The score of an entry is abs(target - mean). The first two arguments calibrate.
    """
    half = conformal_threshold((as_float64(target_N) - as_float64(mean_N)).abs().flatten(), coverage)
    covered = (as_float64(target_B) - as_float64(mean_B)).abs() <= half
    return {"conformal_coverage": covered.double().mean().item(), "conformal_width": 2 * half}
