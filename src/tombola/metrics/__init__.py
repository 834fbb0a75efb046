"""Metrics of predictions, of their calibration, of the drift of the learned standard deviations, of rankings and paths.

A metric is imported when it is used: the tables of columns and records need no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calibration import CALIBRATION, BinnedMetric, Calibration, against_null, ece, mace, mace_coded
    from .drift import log_std_drift
    from .paths import barrier
    from .predictive import accuracy, brier, gaussian_nll, mutual_information, nll, predictive_entropy, rmse
    from .ranks import spearman
    from .summary import classification, mean_over_repeats, regression

_HOME = {
    "calibration": ("CALIBRATION", "BinnedMetric", "Calibration", "against_null", "ece", "mace", "mace_coded"),
    "drift": ("log_std_drift",),
    "paths": ("barrier",),
    "predictive": ("accuracy", "brier", "gaussian_nll", "mutual_information", "nll", "predictive_entropy", "rmse"),
    "ranks": ("spearman",),
    "summary": ("classification", "mean_over_repeats", "regression"),
}
"""Module -> its public names."""

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


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
