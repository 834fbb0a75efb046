"""Records of studies that nobody ran, for each claim: one in which it holds, and one in which it does not."""

import json
import math
from collections.abc import Callable
from zlib import crc32

import numpy as np
import pandas as pd

from tombola.claims.curves import DETERMINISTIC, MU, SNR, SQUARE, SQUARE_CODED, TRANSPLANT, Curve, control, rewound

LEVELS, KEPT = 10, 0.64
"""Densities 1 to 0.0115; nearest 50% is level 2, nearest 10% level 5, below 2% are levels 9 and 10."""
SWING = np.array([1.0, -1.0, 1.0, -1.0, 0.0])
"""Of five seeds, with mean zero."""
LAYERS = 6

Course = float | Callable[[int], float]
"""What a curve adds to its metric at a level: percentage points, or a factor on seconds."""


def rows_of(
    curve: Curve,
    add: Course = 0.0,
    *,
    model: str = "resnet20",
    data: str = "cifar10",
    metric: str = "accuracy",
    seeds: int = 5,
    swing: float = 0.0,
    lr: float = 0.001,
    warmup: float = 0.0,
    parameters: int = 1000,
    levels: range = range(LEVELS + 1),
    study: str = "synthetic",
    settings: dict | None = None,
) -> pd.DataFrame:
    """A curve whose metric is .8 plus `add` points; from level 1 on with `swing` points, of alternating sign over seeds."""
    rng = np.random.default_rng(crc32(f"{curve.words} {model} {lr} {warmup}".encode()))
    rows = []
    for level in levels if curve.arm in ("ticket", "deterministic") else levels[1:]:
        for seed in range(seeds):
            points = add(level) if callable(add) else (add if level else 0.0)
            noise = rng.normal(0, 0.01) + (swing * SWING[seed % 5] if level else 0.0)
            value = 0.8 + 0.001 * seed + (points + noise) / 100
            density = KEPT**level
            rows.append(
                {
                    "study": study,
                    "key": f"{study}-{model}-{curve.words.replace(' ', '_')}-{lr}-{warmup}-{level}-{seed}",
                    "arm": curve.arm,
                    "curve": curve.words,
                    "variant": "",
                    "model": model,
                    "data": data,
                    "method": "map" if curve.chain == "deterministic" and curve.arm != "transplant" else "vi",
                    "score": curve.score,
                    "rewind": "learning_rate" if curve.learning_rate_rewinding else "init",
                    "seed": seed,
                    "level": level,
                    "density": density,
                    "accuracy": value if metric == "accuracy" else 0.8,
                    "best_accuracy": 0.01 + (value if metric == "accuracy" else 0.8),
                    "mace": value if metric == "mace" else 0.05,
                    "mace_coded": value if metric == "mace" else 0.05,
                    "train_seconds": 60.0,
                    "train_flops": 1e12,
                    "layer_density": json.dumps({f"layer{i}": density for i in range(LAYERS)}),
                    "parameters": parameters,
                    "chain": curve.chain,
                    "lr": lr,
                    "warmup_epochs": warmup,
                    "settings": json.dumps({"data.fingerprint": "abc"} | (settings or {"train.lr": lr}), sort_keys=True),
                    "changes": "{}",
                }
            )
    return pd.DataFrame(rows)


def study(curves: dict[Curve, Course], swing: float = 0.0, **given) -> pd.DataFrame:
    """Several curves; each has another part of the swing, so that no difference of two is without it."""
    tables = [rows_of(curve, add, swing=swing * i, **given) for i, (curve, add) in enumerate(curves.items(), start=1)]
    return pd.concat(tables, ignore_index=True)


def costs(seconds: dict[Curve, float], swing: float = 0.0, **given) -> pd.DataFrame:
    """Each curve's cost of a training, in seconds and as many FLOPs; the swing is on its log; no two seconds are equal."""
    rng = np.random.default_rng(0)
    records = study(dict.fromkeys(seconds, 0.0), **given)
    for i, (curve, cost) in enumerate(seconds.items(), start=1):
        here = records["curve"] == curve.words
        factor = np.exp(swing * i / 4 * SWING[records.loc[here, "seed"] % 5])
        for column in ("train_seconds", "train_flops"):
            records.loc[here, column] = cost * factor * (1 + 0.001 * records.loc[here, "seed"])
    records["train_seconds"] *= np.exp(rng.normal(0, 1e-4, len(records)))
    return records


def layers(slopes: dict[Curve, float], swing: float = 0.0, **given) -> pd.DataFrame:
    """Layer densities that change with depth by a rank correlation of 1 or -1; with a swing, of some seeds the other way."""
    records = study(dict.fromkeys(slopes, 0.0), **given)

    def text(row: pd.Series) -> str:
        slope = next(s for curve, s in slopes.items() if curve.words == row["curve"])
        turned = swing and row["chain"] == "bayesian" and SWING[row["seed"] % 5] > 0
        places = np.arange(LAYERS, dtype=float)
        if row["seed"] == 1:
            places[[0, 1]] = places[[1, 0]]  # so that seeds differ
        return json.dumps({f"layer{i}": 0.01 + 0.001 * (-slope if turned else slope) * p for i, p in enumerate(places)})

    return records.assign(layer_density=records.apply(text, axis=1))


def two_sizes(large: Course, swing: float = 0.0) -> pd.DataFrame:
    return pd.concat(
        [
            rows_of(SNR, 0.0, model="resnet20", parameters=270_000),
            rows_of(SNR, large, model="resnet110", parameters=1_700_000, swing=swing),
        ]
    )


def rates(high: Course, swing: float = 0.0) -> pd.DataFrame:
    """A low rate, a high one; settings are those of two variants of a study."""
    return pd.concat([rows_of(SNR, 0.0, lr=0.001), rows_of(SNR, high, lr=0.01, swing=swing)])


def warm(add: Course, swing: float = 0.0) -> pd.DataFrame:
    same = {"train.lr": 0.01}
    return pd.concat(
        [
            rows_of(SNR, 0.0, lr=0.01, settings=same),
            rows_of(SNR, add, lr=0.01, warmup=2, swing=swing, settings=same | {"train.warmup_epochs": 2}),
        ]
    )


def both_kinds(adds: dict[str, float], swing: float = 0.0, **given) -> pd.DataFrame:
    """ticket, reinit and shuffles with these points, of Bayesian and of deterministic tickets."""
    found: dict[Curve, Course] = {}
    for ticket in (SNR, DETERMINISTIC):
        for arm, add in adds.items():
            found[ticket if arm == "ticket" else control(arm, ticket)] = add
    return study(found, swing, **given)


def late(points: float) -> Course:
    """From level 8 on."""
    return lambda level: points if level >= 8 else 0.0


Scenario = Callable[[float], pd.DataFrame]
"""Records with so large a swing."""

_C = dict.fromkeys(("reinit", "shuffle_layerwise", "shuffle_even", "shuffle_global"), -3.0)

SCENARIOS: dict[str, tuple[Scenario, Scenario]] = {
    "1a": (lambda s: study({SNR: 0.0}, s), lambda s: study({SNR: -2.0}, s)),
    "1b": (
        lambda s: study({SNR: 0.0, MU: 0.0, DETERMINISTIC: 0.0}, s),
        lambda s: study({SNR: 0.0, MU: 0.0, DETERMINISTIC: -2.0}, s),
    ),
    "1c": (
        lambda s: study({SNR: 0.0, MU: 0.0, SQUARE: late(-3.0), DETERMINISTIC: late(-3.0)}, s),
        lambda s: study({SNR: 0.0, MU: 0.0, SQUARE: late(3.0), DETERMINISTIC: late(-3.0)}, s),
    ),
    "1d": (
        lambda s: study({SNR: 0.0, MU: 0.0, SQUARE: 0.0}, s, model="vgg11"),
        lambda s: study({SNR: 0.0, MU: 0.0, SQUARE: -2.0}, s, model="vgg11"),
    ),
    "1e": (
        lambda s: study({SNR: 2.0, DETERMINISTIC: 0.0}, s, model="vit_tiny"),
        lambda s: study({SNR: -2.0, DETERMINISTIC: 0.0}, s, model="vit_tiny"),
    ),
    "1f": (
        lambda s: study({SNR: 2.0, MU: 2.0}, s, model="vit_tiny"),
        lambda s: study({SNR: 2.0, MU: -2.0}, s, model="vit_tiny"),
    ),
    "1g": (
        lambda s: study({SNR: 0.0, SQUARE: -2.0, SQUARE_CODED: -2.0}, s, model="vit_tiny"),
        lambda s: study({SNR: 0.0, SQUARE: 2.0, SQUARE_CODED: 2.0}, s, model="vit_tiny"),
    ),
    "1h": (lambda s: study({SNR: 0.0, MU: 0.0}, s), lambda s: study({SNR: 0.0, MU: -2.0}, s)),
    "1i": (lambda s: study({SNR: -2.0}, s, metric="mace"), lambda s: study({SNR: 2.0}, s, metric="mace")),
    "1j": (
        lambda s: study({SNR: 0.0}, s, model="vgg11", metric="mace"),
        lambda s: study({SNR: late(-3.0)}, s, model="vgg11", metric="mace"),
    ),
    "2a": (lambda s: layers({SNR: -1.0}, s), lambda s: layers({SNR: 1.0}, s)),
    "2b": (
        lambda s: layers({SNR: -1.0, DETERMINISTIC: -1.0 if s else 1.0}, s),
        lambda s: layers({SNR: 1.0, DETERMINISTIC: -1.0}, s),
    ),
    "3a": (
        lambda s: both_kinds({"ticket": 0.0} | _C, s, model="mlp", data="digits"),
        lambda s: both_kinds({"ticket": 0.0} | _C | {"shuffle_even": 3.0}, s, model="mlp", data="digits"),
    ),
    "3b": (
        lambda s: both_kinds({"reinit": 0.0, "shuffle_layerwise": 0.0}, s),
        lambda s: both_kinds({"reinit": -3.0, "shuffle_layerwise": 0.0}, s),
    ),
    "3c": (
        lambda s: both_kinds(_C | {"shuffle_layerwise": 0.0}, s, model="vgg11"),
        lambda s: both_kinds(_C | {"shuffle_even": 0.0}, s, model="vgg11"),
    ),
    "3d": (
        lambda s: both_kinds({"ticket": 0.0} | _C, s, model="vit_tiny"),
        lambda s: both_kinds({"ticket": 0.0} | _C | {"reinit": -1.0}, s, model="vit_tiny"),
    ),
    "4a": (lambda s: study({TRANSPLANT: 0.0, SNR: 0.0}, s), lambda s: study({TRANSPLANT: -2.0, SNR: 0.0}, s)),
    "4b": (
        lambda s: study({TRANSPLANT: 0.0, DETERMINISTIC: 0.0}, s, model="vgg11"),
        lambda s: study({TRANSPLANT: 2.0, DETERMINISTIC: 0.0}, s, model="vgg11"),
    ),
    "4c": (
        lambda s: study({TRANSPLANT: -2.0, DETERMINISTIC: 0.0}, s, model="vit_tiny"),
        lambda s: study({TRANSPLANT: 2.0, DETERMINISTIC: 0.0}, s, model="vit_tiny"),
    ),
    "4d": (
        lambda s: study({TRANSPLANT: 0.0, SNR: 0.0}, s, metric="mace"),
        lambda s: study({TRANSPLANT: 3.0, SNR: 0.0}, s, metric="mace"),
    ),
    "4e": (
        lambda s: costs({TRANSPLANT: 10.0, DETERMINISTIC: 1.0, SNR: 10.0}, s),
        lambda s: costs({TRANSPLANT: 10.0, DETERMINISTIC: 10.0, SNR: 10.0}, s),
    ),
    "5a": (lambda s: costs({SNR: 5.0, DETERMINISTIC: 1.0}, s), lambda s: costs({SNR: 1.1, DETERMINISTIC: 1.0}, s)),
    "6a": (lambda s: two_sizes(2.0, s), lambda s: two_sizes(-2.0, s)),
    "6b": (
        lambda s: study({SNR: 0.0}, s, model="vgg19"),
        lambda s: study({SNR: -2.0}, s, model="vgg19"),
    ),
    "7a": (lambda s: rates(2.0, s), lambda s: rates(-2.0, s)),
    "7b": (lambda s: warm(0.0, s), lambda s: warm(-2.0, s)),
    "8a": (
        lambda s: study({SNR: 0.0, DETERMINISTIC: 0.0, rewound(SNR): 2.0, rewound(DETERMINISTIC): 2.0}, s),
        lambda s: study({SNR: 0.0, DETERMINISTIC: 0.0, rewound(SNR): 2.0, rewound(DETERMINISTIC): late(-2.0)}, s),
    ),
    "8b": (
        lambda s: study({DETERMINISTIC: 0.0, rewound(DETERMINISTIC): 2.0}, s, model="vgg11"),
        lambda s: study({DETERMINISTIC: 0.0, rewound(DETERMINISTIC): -2.0}, s, model="vgg11"),
    ),
    "8c": (
        lambda s: study({SNR: 0.0, rewound(SNR): late(2.0)}, s, model="vit_tiny"),
        lambda s: study({SNR: 0.0, rewound(SNR): 2.0}, s, model="vit_tiny"),
    ),
}
"""id -> (records in which the claim holds, records in which it does not)."""


def without_data(records: pd.DataFrame) -> pd.DataFrame:
    """The same nets with nothing but a curve that no claim is about."""
    return records.assign(arm="ticket", chain="bayesian", score="random", train_seconds=math.nan)


def only(records: pd.DataFrame, seeds: int) -> pd.DataFrame:
    return records[records["seed"] < seeds]
