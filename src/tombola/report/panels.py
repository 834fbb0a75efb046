"""Panels: the records that may share one figure, of one model, one data set and one variant."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tombola.metrics.column import Column, listed

from .quantities import ACCURACY, RMSE
from .statistics import summary

CONTROLS = (
    *("transplant_shuffle", "transplant_reinit"),
    *("reinit", "shuffle_layerwise", "shuffle_even", "shuffle_global"),
)
ARMS = ("ticket", "deterministic", "transplant", "equal_budget", *CONTROLS)
OWN_MASK = ("ticket", "deterministic")  # the chains that prune; the other arms take a mask from one of them


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The records of one section and of its figures."""

    number: int
    net: str
    """Model and data."""
    variant: str
    setting: str
    """The parts of the variant in which the panels differ, such as "lr=0.01"; empty if it is the only one."""
    records: pd.DataFrame
    curves: list[str]  # in the order of legends and tables
    reference: str  # the curve that the others are compared with
    main: Column  # accuracy, or RMSE for regression
    _summaries: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    @property
    def title(self) -> str:
        return self.net + (f", {self.setting}" if self.setting else "")

    def chance(self) -> float:
        """Return the accuracy of guessing in percent; NaN where classes are not recorded, and for regression."""
        known = "classes" in self.records and self.main is ACCURACY
        return 100 / float(self.records["classes"].max()) if known else math.nan

    def summary(self, metric: str) -> pd.DataFrame:
        """Return `statistics.summary` of the records; kept, since sentences, captions and tables ask for it again."""
        if metric not in self._summaries:
            self._summaries[metric] = summary(self.records, metric)
        return self._summaries[metric]

    def arm(self, curve: str) -> str:
        """Return the arm that the curve shows."""
        return str(self.records.loc[self.records["curve"] == curve, "arm"].iloc[0])

    def uncontrolled(self) -> list[str]:
        """Return the curves that are no control of another one."""
        return [curve for curve in self.curves if self.arm(curve) not in CONTROLS]

    def own_masks(self) -> list[str]:
        """Return the curves that found their mask themselves."""
        return [curve for curve in self.curves if self.arm(curve) in OWN_MASK]

    def stages(self, stages: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of a table of stages that were run for this panel."""
        own = self.records[["model", "data"]].iloc[0]
        here = (stages["model"] == own["model"]) & (stages["data"] == own["data"]) & (stages["variant"] == self.variant)
        return stages[here]


def panels(records: pd.DataFrame) -> list[Panel]:
    """Return the panels in the order in which the records name them. Infinite values become NaN."""
    if records.empty:
        return []
    records = records.replace([math.inf, -math.inf], math.nan).assign(variant=records["variant"].fillna(""))
    settings = differing(list(records["variant"].unique()))
    groups = records.groupby(["model", "data", "variant"], sort=False)
    return [
        _panel(number, f"{model} on {data}", str(variant), settings[str(variant)], rows)
        for number, ((model, data, variant), rows) in enumerate(groups, start=1)
    ]


def differing(variants: Sequence[str]) -> dict[str, str]:
    """Return for each variant its parts that not all have, without the path before a name where names are unique."""
    parts = {variant: re.split(r", (?=[\w.]+=)", variant) for variant in variants}
    shared = set.intersection(*map(set, parts.values())) if len(variants) > 1 else set()
    own = {variant: [part for part in each if part and part not in shared] for variant, each in parts.items()}
    paths = {part.partition("=")[0] for each in own.values() for part in each}
    last = {path: path.rpartition(".")[2] for path in paths}
    unique = len(set(last.values())) == len(paths)

    def short(part: str) -> str:
        path, equals, value = part.partition("=")
        return f"{last[path] if unique else path}{equals}{value}"

    return {variant: ", ".join(map(short, each)) for variant, each in own.items()}


def ordered_curves(records: pd.DataFrame) -> list[str]:
    """Return the names of the curves: by arm, snr before other scores, then as they come."""
    if records.empty:
        return []
    firsts = records.drop_duplicates("curve")
    names = zip(firsts["arm"], firsts["score"], firsts["curve"], strict=True)
    return [str(curve) for _, _, curve in sorted(names, key=lambda name: (_rank(name[0]), name[1] != "snr"))]


def main_quantity(records: pd.DataFrame) -> Column:
    """Return accuracy, or RMSE for regression."""
    return ACCURACY if records["accuracy"].notna().any() else RMSE


def _rank(arm: str) -> int:
    return ARMS.index(arm) if arm in ARMS else len(ARMS)


def _panel(number: int, net: str, variant: str, setting: str, rows: pd.DataFrame) -> Panel:
    curves = ordered_curves(rows)
    return Panel(
        number=number,
        net=net,
        variant=variant,
        setting=setting,
        records=rows,
        curves=curves,
        reference=curves[0],  # tickets come first, and snr first among them
        main=main_quantity(rows),
    )


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
    "share that the last level keeps": ("prune", "target"),
    "pruned is a share of": ("prune", "budget"),
    "pattern of masks": ("prune", "pattern"),
    "prune scope": ("prune", "scope"),
    "final classifier pruned": ("prune", "classifier"),
    "not pruned": ("prune", "exclude"),
    "posterior samples per prediction": ("evaluate", "samples"),
    "repeats of the evaluation": ("evaluate", "repeats"),
    "calibration bins": ("evaluate", "bins"),
}
WHERE_SET = {("prune", name) for name in ("levels", "target", "pattern", "exclude")}
"""Settings of `MAIN` that are left out where a study has none."""


def values(node: Any, *path: str) -> list[Any]:
    """Return the values at a path of nested mappings: several for a fan-out, none where it is not set."""
    if isinstance(node, list | tuple):
        return [value for each in node for value in values(each, *path)]
    if not path:
        return [] if node is None else [node]
    return values(node.get(path[0]), *path[1:]) if isinstance(node, Mapping) else []


def written(found: list[Any]) -> str:
    """Return the values of a setting as words: "0.001 and 0.01", "yes", "not stated"."""
    return listed([_word(value) for value in found]) if found else "not stated"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
