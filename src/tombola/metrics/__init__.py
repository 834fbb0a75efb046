"""Metrics of predictions, of their calibration, of the drift of the learned standard deviations, of rankings and paths."""

from .barrier import barrier
from .calibration import CALIBRATION, BinnedMetric, Calibration, against_null, ece, mace, mace_coded
from .drift import log_std_drift
from .predictive import accuracy, brier, gaussian_nll, mutual_information, nll, predictive_entropy, rmse
from .ranks import spearman
from .summary import classification, mean_over_repeats, regression

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
