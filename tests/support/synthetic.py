"""The records of studies that nobody ran, whose answers are known."""

import json
import math
import re

import numpy as np
import pandas as pd

LEVELS, FRACTION = 6, 0.36
LAYERS = {"fc1": 0.7, "fc2": 1.0, "fc3": 2.2}  # density over that of the whole
CURVES = {  # arm, curve, score, points of accuracy lost per level
    "ticket (snr)": ("ticket", "snr", 0.004),
    "ticket (mu)": ("ticket", "mu", 0.0042),
    "deterministic (magnitude)": ("deterministic", "magnitude", 0.006),
    "transplant": ("transplant", "magnitude", 0.007),
    "re-init (snr)": ("reinit", "snr", 0.02),
    "layer-wise shuffle (snr)": ("shuffle_layerwise", "snr", 0.06),
    "global shuffle (snr)": ("shuffle_global", "snr", 0.13),
}
STUDY = {
    "name": "digits",
    "description": "IMP on digits.",
    "seeds": [0, 1, 2],
    "data": {"name": "digits"},
    "model": {"name": "mlp"},
    "train": {"epochs": 10, "lr": 0.003, "optimiser": "adam", "heat": 0.1, "batch_size": 64, "log_std_lr_factor": 5.0},
    "prune": {"fraction": 0.36, "levels": 6, "scope": "global", "classifier": False, "exclude": ["fc3"]},
    "evaluate": {"samples": 8, "repeats": 5, "bins": 15},
}


def _layers(level: int) -> str:
    return json.dumps({name: min(1.0, share * (1 - FRACTION) ** level) for name, share in LAYERS.items()})


def digits(seeds: int = 3, levels: int = LEVELS, variant: str = "") -> pd.DataFrame:
    """A finished study: controls from level 1 on; the same seed shifts every curve of it alike."""
    rng = np.random.default_rng(7)
    rows = [
        _row(curve, level, seed, variant, rng)
        for curve, (arm, _, _) in CURVES.items()
        for level in range(levels + 1)
        for seed in range(seeds)
        if level > 0 or arm in ("ticket", "deterministic")
    ]
    return pd.DataFrame(rows)


def _row(curve: str, level: int, seed: int, variant: str, rng: np.random.Generator) -> dict[str, object]:
    arm, score, loss = CURVES[curve]
    accuracy = 0.1 + (0.875 + 0.002 * seed) * math.exp(-loss * level) + rng.normal(0, 0.002)
    ece = 0.01 + 0.004 * level * (1 + 10 * loss) + abs(rng.normal(0, 0.001))
    null = 0.015 - 0.0005 * level
    sigma = arm not in ("deterministic",)
    return {
        "study": "digits",
        "stage": f"{curve} {level}",
        "key": f"{curve} {level} {seed} {variant}",
        "arm": arm,
        "curve": curve,
        "variant": variant,
        "model": "mlp",
        "data": "digits",
        "method": "vi",
        "score": score,
        "rewind": "weights",
        "seed": seed,
        "level": level,
        "density": (1 - FRACTION) ** level,
        "density_all": (1 - FRACTION) ** level,
        "accuracy": accuracy,
        "best_accuracy": accuracy + 0.006,
        "nll": 0.08 + 1.2 * loss * level + rng.normal(0, 0.004),
        "brier": 0.05,
        "rmse": math.nan,
        "ece": ece,
        "ece_null": null,
        "ece_null_low": null - 0.006,
        "ece_null_high": null + 0.007,
        "ece_excess": 0,
        "mace": 2 * ece,
        "mace_null": 3 * null,
        "mace_null_low": 2 * null,
        "mace_null_high": 4 * null,
        "drift_mean": -0.4 if sigma else math.nan,
        "drift_spread": 0.2 if sigma else math.nan,
        "drift_rank": 0.97 if sigma else math.nan,
        "layer_density": _layers(level),
        "parameters": 50610,
        "chain": "deterministic" if arm in ("deterministic", "transplant") else "bayesian",
        "lr": 0.003,
        "warmup_epochs": 0.0,
        "settings": '{"train.lr": 0.003}',
        "changes": "{}",
        "samples": 8,
        "repeats": 5,
        "examples": 360,
        "classes": 10,
        "train_seconds": 1.5,
        "device": "cpu",
        "torch": "2.13.0",
    }


def regression() -> pd.DataFrame:
    """The same study with a target on the real line: RMSE rises as accuracy fell."""
    records = digits()
    records["rmse"] = 1.2 - records["accuracy"]
    classification = [name for name in records if re.match(r"(best_)?accuracy|ece|mace|brier|classes", name)]
    return records.assign(data="energy", **dict.fromkeys(classification, math.nan))


def times(records: pd.DataFrame) -> pd.DataFrame:
    """For every row a training of 2 s, a pruning of .5 s and an evaluation of .25 s."""
    labels = records[["curve", "variant", "model", "data", "seed", "level"]]
    seconds = {"train": 2.0, "prune": 0.5, "evaluate": 0.25}
    return pd.concat([labels.assign(kind=kind, seconds=s) for kind, s in seconds.items()], ignore_index=True)
