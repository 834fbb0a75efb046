"""Settings in stage keys: the fields that differ from their frozen defaults."""

import dataclasses
from typing import Any

from .fields import BAYESIAN, marked

KEY_DEFAULTS: dict[str, dict[str, Any]] = {
    "PosteriorSettings": {
        "mean": "module",
        "std": 0.02,
        "std_scale": "absolute",
        "std_jitter": 0.0,
        "prior_mean": "zero",
        "members": 1,
        "random": None,
        "decayed": None,
    },
    "TrainSettings": {
        "method": "vi",
        "epochs": 30,
        "batch_size": 128,
        "optimiser": "adam",
        "lr": 0.001,
        "log_std_lr_factor": 5.0,
        "ivon_lr": 1.0,
        "hess_init": 0.3,
        "beta1": 0.9,
        "beta2": 0.999,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "milestones": [0.5, 0.75],
        "gamma": 0.1,
        "heat": 0.1,
        "kl_warmup_epochs": 0.0,
        "prior_std": 1.0,
        "spike_std": 0.01,
        "slab": 0.5,
        "keep": 10,
        "cycles": 1,
        "burn_in": 0.5,
        "dropout": 0.1,
        "rank": 4,
        "estimator": "weight_sample",
        "objective": "expected_log",
        "samples": 1,
        "noise_refresh": 0.0625,
        "loss_scale": "mean",
        "likelihood": "categorical",
        "noise_std": 1.0,
        "learn_noise": False,
        "label_smoothing": 0.0,
        "clip_norm": None,
        "accumulate": 1,
        "precision": "fp32",
        "channels_last": False,
        "compile": False,
        "cuda_graphs": False,
        "sparse": {},
        "divergence": 1000000.0,
    },
    "PruneSettings": {
        "score": "snr",
        "sigma": "trained",
        "fraction": 0.2,
        "levels": 20,
        "scope": "global",
        "rewind": "init",
        "classifier": False,
        "include": [],
        "exclude": [],
        "budget": "weights",
        "cost_exponent": 0.25,
        "costs": {},
        "target": None,
        "pattern": "",
        "structure": "none",
    },
    "ModelSettings": {
        "name": "mlp",
        "args": {},
        "weights": "",
    },
    "DataSettings": {
        "name": "digits",
        "args": {},
        "flip": False,
        "alternate_flip": False,
        "crop": 0,
        "resident": None,
    },
    "EvaluateSettings": {
        "split": "test",
        "samples": 16,
        "estimator": "weight_sample",
        "repeats": 1,
        "batch_norm": "running",
        "batch_size": 1024,
        "precision": "fp32",
        "channels_last": False,
        "bins": 15,
        "redraws": 100,
        "measures": [],
        "outside": None,
    },
}
"""Defaults in keys, by class and field; one never changes once a release has it.

A default of the class may change: its new value then enters keys, and old results keep the old value's keys. The entry of a
new field is the value that gives the old behaviour.
"""


def canonical(settings: Any) -> dict[str, Any]:
    """Return the fields that differ from `KEY_DEFAULTS`: what enters keys, tickets and the labels of records."""
    frozen = KEY_DEFAULTS[type(settings).__name__]
    return {name: value for name, default in frozen.items() if (value := getattr(settings, name)) != default}


def restored(kind: Any, found: dict[str, Any]) -> Any:
    """Return the settings of class `kind` that `canonical` gave as `found`."""
    return kind(**KEY_DEFAULTS[kind.__name__] | found)


def deterministic_part(settings: Any) -> Any:
    """Return the settings with the fields of Bayesian training at their defaults in keys.

    A deterministic stage does not depend on them.
    """
    frozen = KEY_DEFAULTS[type(settings).__name__]
    return dataclasses.replace(settings, **{name: frozen[name] for name in marked(settings, BAYESIAN)})
