"""Reading a resolved study, in which any setting may be a list (a fan-out), or missing."""

from collections.abc import Mapping
from typing import Any

from tombola.report.quantities import listed

MAIN = {
    "data": ("data", "name"),
    "model": ("model", "name"),
    "seeds": ("seeds",),
    "epochs": ("train", "epochs"),
    "learning rate": ("train", "lr"),
    "learning rate of log sigma, over that of mu": ("train", "log_std_lr_factor"),
    "optimiser": ("train", "optimiser"),
    "heat (weight of the KL term)": ("train", "heat"),
    "batch size": ("train", "batch_size"),
    "fraction pruned per level": ("prune", "fraction"),
    "levels": ("prune", "levels"),
    "prune scope": ("prune", "scope"),
    "final classifier pruned": ("prune", "classifier"),
    "not pruned": ("prune", "exclude"),
    "posterior samples per prediction": ("evaluate", "samples"),
    "repeats of the evaluation": ("evaluate", "repeats"),
    "calibration bins": ("evaluate", "bins"),
}


def values(node: Any, *path: str) -> list[Any]:
    """What stands at that path of nested mappings; several values for a fan-out, none where it is not set."""
    if isinstance(node, list | tuple):
        return [value for each in node for value in values(each, *path)]
    if not path:
        return [] if node is None else [node]
    return values(node.get(path[0]), *path[1:]) if isinstance(node, Mapping) else []


def written(found: list[Any]) -> str:
    """The values of a setting as words: "0.001 and 0.01", "yes", "not stated"."""
    return listed([_word(value) for value in found]) if found else "not stated"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
