"""Metrics of predictions, of their calibration and uncertainty, of the drift of learned standard deviations, of paths.

A metric is imported when it is used: the tables of columns and records need no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calibration import CALIBRATION, BinnedMetric, Calibration, adaptive_ece, against_null, ece, mace, mace_coded
    from .conformal import conformal_classes, conformal_interval, conformal_threshold, prediction_sets
    from .drift import log_std_drift
    from .mixtures import crps, interval, intervals
    from .outliers import aupr, auroc, fpr95
    from .paths import barrier
    from .poisson import counts
    from .predictive import accuracy, brier, gaussian_nll, mutual_information, nll, predictive_entropy, rmse
    from .ranks import spearman
    from .scaling import temperature, tempered
    from .selective import aurc, excess_aurc, risk_at_coverage
    from .summary import classification, mean_over_repeats, regression
    from .uncertainty import uncertainties

_HOME = {
    "calibration": (
        "CALIBRATION",
        "BinnedMetric",
        "Calibration",
        "adaptive_ece",
        "against_null",
        "ece",
        "mace",
        "mace_coded",
    ),
    "conformal": ("conformal_classes", "conformal_interval", "conformal_threshold", "prediction_sets"),
    "poisson": ("counts",),
    "drift": ("log_std_drift",),
    "mixtures": ("crps", "interval", "intervals"),
    "outliers": ("aupr", "auroc", "fpr95"),
    "paths": ("barrier",),
    "predictive": ("accuracy", "brier", "gaussian_nll", "mutual_information", "nll", "predictive_entropy", "rmse"),
    "ranks": ("spearman",),
    "selective": ("aurc", "excess_aurc", "risk_at_coverage"),
    "summary": ("classification", "mean_over_repeats", "regression"),
    "scaling": ("temperature", "tempered"),
    "uncertainty": ("uncertainties",),
}
"""Module -> its public names."""

__all__ = [
    "CALIBRATION",
    "BinnedMetric",
    "Calibration",
    "accuracy",
    "adaptive_ece",
    "against_null",
    "aupr",
    "aurc",
    "auroc",
    "barrier",
    "brier",
    "classification",
    "conformal_classes",
    "conformal_interval",
    "conformal_threshold",
    "counts",
    "crps",
    "ece",
    "excess_aurc",
    "fpr95",
    "gaussian_nll",
    "interval",
    "intervals",
    "log_std_drift",
    "mace",
    "mace_coded",
    "mean_over_repeats",
    "mutual_information",
    "nll",
    "prediction_sets",
    "predictive_entropy",
    "regression",
    "risk_at_coverage",
    "rmse",
    "spearman",
    "temperature",
    "tempered",
    "uncertainties",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
