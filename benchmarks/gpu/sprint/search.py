"""Search of each net's recipe on validation images: dense networks, a few settings, vi and map by the same.

The learning rate is kept at which vi and map are best together, by mean accuracy: no arm has a rate of its own. The rate of
log_std is the one of the least NLL of vi at the middle rate. IVON is measured beside.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.gpu.sprint.agenda import Agenda
from tombola.engine.local import dataset
from tombola.study.plan import Plan, plan_study
from tombola.study.spec import unfold

Change = dict[str, Any]

RATES: Mapping[str, Sequence[float]] = {
    "fast": (0.3, 0.6, 1.2),
    "resnet20": (0.2, 0.4, 0.8),
    "vgg11": (0.05, 0.1, 0.2),
    "vit_tiny": (0.0005, 0.001, 0.002),
}
"""Net -> learning rates that are tried; the middle one is the recipe's, or near it."""
FACTORS = (1, 10, 100)
"""Rates of log_std over that of the mean, tried at the middle rate: with SGD the least leaves sigma at its start."""
IVON: Sequence[Change] = ({"method": "ivon", "ivon_lr": 0.1}, {"method": "ivon", "ivon_lr": 0.3})


def plan(agenda: Agenda, net: str) -> Plan:
    """Return the trainings of a net's search."""
    rates, factor = [{"lr": lr} for lr in RATES[net]], _factor(agenda, net)
    raw: dict[str, Any] = {
        "name": "recipes",
        "prune": {"levels": 0},
        "evaluate": {"split": "validation", "samples": 8},
        "arms": [
            {"arm": "ticket", "train": rates},
            {"arm": "deterministic", "train": rates},
            {"arm": "ticket", "train": [{**rates[1], "log_std_lr_factor": own} for own in FACTORS if own != factor]},
            {"arm": "ticket", "train": [{**rates[1], **own} for own in IVON]},
        ],
    }
    return plan_study(unfold(agenda.settings(raw, net, [0])), dataset)


def _factor(agenda: Agenda, net: str) -> float:
    (variant,) = unfold(agenda.settings({"name": "recipes", "arms": ["ticket"]}, net, [0]))
    return variant.study.train.log_std_lr_factor


def chosen(agenda: Agenda, net: str, records: pd.DataFrame) -> dict[str, Any] | None:
    """Return the settings that the search has found for a net; None where trainings of a kind have all failed."""
    changes = records["changes"].map(json.loads)
    plain = records[~changes.map(lambda own: "train.log_std_lr_factor" in own or "train.ivon_lr" in own)]
    both = plain.pivot_table(index="lr", columns="method", values="accuracy").dropna()
    middle = records[(records["lr"] == RATES[net][1]) & (records["method"] == "vi")]
    if not len(both) or not len(middle):
        return None
    lr = float(both.mean(axis=1).idxmax())
    best = middle.loc[middle["nll"].idxmin(), "changes"]
    factor = json.loads(best).get("train.log_std_lr_factor", _factor(agenda, net))
    return {"train": {"lr": lr, "log_std_lr_factor": factor}}


def table(records: pd.DataFrame) -> str:
    """Return the search's results as text."""
    columns = ["model", "method", "changes", "accuracy", "nll", "ece", "train_seconds"]
    return records[columns].to_string(index=False, float_format=lambda value: f"{value:.4f}")
