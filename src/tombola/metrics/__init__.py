"""Metrics of predictions, of their calibration, of the drift of the learned standard deviations, of rankings and paths."""

from tombola.metrics.barrier import barrier
from tombola.metrics.calibration import (
    CALIBRATION,
    BinnedMetric,
    Calibration,
    against_null,
    ece,
    mace,
    mace_coded,
)
from tombola.metrics.drift import log_std_drift
from tombola.metrics.predictive import (
    accuracy,
    brier,
    gaussian_nll,
    mutual_information,
    nll,
    predictive_entropy,
    rmse,
)
from tombola.metrics.ranks import spearman
from tombola.metrics.summary import classification, mean_over_repeats, regression

__all__ = [
    "CALIBRATION",
    "BinnedMetric",
    "Calibration",
    "accuracy",
    "against_null",
    "barrier",
    "brier",
    "classification",
    "ece",
    "gaussian_nll",
    "log_std_drift",
    "mace",
    "mace_coded",
    "mean_over_repeats",
    "mutual_information",
    "nll",
    "predictive_entropy",
    "regression",
    "rmse",
    "spearman",
]
