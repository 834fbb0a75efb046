"""What a record says of the settings behind it, so that rows of several studies can be put together and told apart."""

import dataclasses
import json
from typing import Any

from .settings import TrainSettings, canonical
from .study import Arm, Study

_LEFT_OUT = {
    "data": ("name", "args", "resident"),  # its fingerprint stands for them
    "model": ("name",),
    "posterior": (),
    "train": ("method",),
    "prune": ("score", "rewind", "levels"),  # more levels change none of the first
    "evaluate": (),
}
"""Sections of a study, and their fields that a record has a column for or that change no number of it."""

_OF_DETERMINISTIC = ("deterministic", "transplant")
"""How the arms begin whose masks are a deterministic network's."""


def settings_labels(study: Study, arm: Arm, train: TrainSettings, fingerprint: str) -> dict[str, Any]:
    """The columns `chain`, `lr`, `warmup_epochs`, `settings` and `changes` of an arm's row that is trained by `train`."""
    return {
        "chain": "deterministic" if arm.of == "deterministic" or arm.arm.startswith(_OF_DETERMINISTIC) else "bayesian",
        "lr": train.lr,
        "warmup_epochs": train.warmup_epochs,
        "settings": _text({"data.fingerprint": fingerprint} | _settings(study)),
        "changes": _text(_changes(study, arm)),
    }


def _settings(study: Study) -> dict[str, Any]:
    """Path -> value of what differs from the defaults."""
    return {
        f"{section}.{name}": value
        for section, left_out in _LEFT_OUT.items()
        for name, value in canonical(getattr(study, section)).items()
        if name not in left_out
    }


def _changes(study: Study, arm: Arm) -> dict[str, Any]:
    """Path -> value of what the arm does otherwise than its study."""
    own = {name: value for name, value in arm.train.items() if name != "method" and value != getattr(study.train, name)}
    plain = dataclasses.asdict(Arm()) | dataclasses.asdict(study.prune)
    rest = {
        name: value
        for name, value in dataclasses.asdict(arm).items()
        if name not in ("arm", "score", "of", "rewind", "levels", "densities", "train") and value not in (None, plain[name])
    }
    return {f"train.{name}": value for name, value in own.items()} | rest


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)
