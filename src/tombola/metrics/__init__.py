"""Metrics of predictions, of their calibration, and of the drift of the learned standard deviations."""

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
from tombola.metrics.summary import classification, mean_over_repeats, regression

__all__ = [
    "CALIBRATION",
    "BinnedMetric",
    "Calibration",
    "accuracy",
    "against_null",
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
]
