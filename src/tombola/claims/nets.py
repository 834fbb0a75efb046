"""The nets of the records: each the rows of one model in one setting, of whatever studies they are from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .curves import Curve, Grid, Missing, Rows, named

if TYPE_CHECKING:
    import pandas as pd

BESIDE = {"accuracy": "best_accuracy", "mace": "mace_coded"}
"""Column -> the column shown beside it: the best epoch's accuracy, and MACE of every class, as the paper's code."""
MARGIN_OF_MACE = 1.0
"""Percentage points within which two MACEs match: our choice, the paper has none."""
FAMILIES = ("resnet", "vgg", "vit", "fast")
"""Beginnings of model names: models that share one are relatives."""


@dataclass(frozen=True, kw_only=True)
class Net:
    """The rows of one model in one setting. `metric` is the column that claims are about."""

    label: str
    model: str
    data: str
    parameters: int
    settings: dict[str, Any]
    rows: Rows
    metric: str = "accuracy"
    relatives: list[Net] = field(default_factory=list, repr=False)
    """All nets of the records on the same data, of the same family or the same name, this one too."""

    @property
    def family(self) -> str:
        """One of `FAMILIES`; for other models the name."""
        return family_of(self.model)

    @property
    def margin(self) -> float:
        """Percentage points within which two values match: 0.5 of accuracy on CIFAR, 1 on other data; 1 of MACE."""
        if self.metric.startswith("mace"):
            return MARGIN_OF_MACE
        return 0.5 if "cifar" in self.data.lower() else 1.0  # by a hub's name, or that of a folder

    def grids(self, *curves: Curve, column: str = "") -> list[Grid]:
        """Return the values of each curve. Raises Missing naming all the curves that are not recorded."""
        name = column or self.metric
        found = {curve: self.rows.grid(curve, name) for curve in curves}
        absent = [curve for curve, values in found.items() if values is None]
        if absent:
            what = "" if name == "accuracy" else f"{name.replace('_', ' ')} of "
            raise Missing(f"{what}{named(absent)}")
        return [values for values in found.values() if values is not None]

    def rates(self, curve: Curve) -> list[float]:
        """Return the learning rates at which the curve was trained, rising."""
        return sorted({float(self.rows.column("lr")[place]) for place in self.rows.places(curve)})

    def smaller(self) -> Net:
        """Return the next smaller relative, in the setting most like this one's. Raises Missing if this is the smallest."""
        sizes = {other.parameters for other in self.relatives if other.parameters < self.parameters}
        if not sizes:
            raise Missing("two sizes of a family")
        below = [other for other in self.relatives if other.parameters == max(sizes)]
        return replace(min(below, key=lambda other: len(differing([self.settings, other.settings]))), metric=self.metric)


def family_of(model: str) -> str:
    """Return the first of `FAMILIES` that the name begins with; otherwise the name."""
    return next((family for family in FAMILIES if model.startswith(family)), model)


def nets_of(records: pd.DataFrame, varied: Sequence[str] = ()) -> list[Net]:
    """Return the nets, in the records' order. Settings in `varied`, such as train.lr, may differ within a net.

    Arms that change anything else of their study are left out: these are other experiments.
    """
    kept = {text: set(json.loads(text)) <= set(varied) for text in records["changes"].unique()}
    rows = records[records["changes"].map(kept).astype(bool)]
    found = [net for key, own in _by_setting(rows, varied) for net in _by_method(key, own)]
    labelled = [replace(net, label=_label(net, found)) for net in found]
    return [replace(net, relatives=[n for n in labelled if _alike(n, net)]) for net in labelled]


def _alike(one: Net, other: Net) -> bool:
    same = ("data.fingerprint", "method", "rewind")
    return one.family == other.family and all(one.settings.get(name) == other.settings.get(name) for name in same)


def _by_setting(rows: pd.DataFrame, varied: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    kept = {text: {p: v for p, v in json.loads(text).items() if p not in varied} for text in rows["settings"].unique()}
    texts = rows["settings"].map({text: json.dumps(settings, sort_keys=True) for text, settings in kept.items()})
    for (_, _, text), own in rows.groupby([rows["model"], rows["data"], texts], sort=False):
        yield json.loads(str(text)), own


def _by_method(settings: dict[str, Any], rows: pd.DataFrame) -> Iterator[Net]:
    """Yield a net for each Bayesian method and each point of weight rewinding, with the deterministic rows in each."""
    first = rows.iloc[0]
    for method in [m for m in rows["method"].unique() if m != "map"] or ["map"]:
        for rewind in [r for r in rows["rewind"].unique() if r != "learning_rate"] or ["init"]:
            here = rows["method"].isin([method, "map"]) & rows["rewind"].isin([rewind, "learning_rate"])
            yield Net(
                label="",
                model=str(first["model"]),
                data=str(first["data"]),
                parameters=int(first["parameters"]),
                settings=settings | {"method": str(method), "rewind": str(rewind)},
                rows=Rows(rows[here]),
            )


def _label(net: Net, all_nets: list[Net]) -> str:
    """Return the model's name, with the settings that set the net apart from others of that name."""
    same = [other for other in all_nets if (other.model, other.data) == (net.model, net.data)]
    where = f" on {net.data}" if len({other.data for other in all_nets}) > 1 else ""
    apart = [f"{path.split('.')[-1]}={net.settings.get(path, 'default')}" for path in differing([n.settings for n in same])]
    return f"{net.model}{where}{', ' if apart else ''}{', '.join(apart)}"


def differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Return the paths at which the settings are not all equal."""
    paths = sorted({path for each in settings for path in each})
    return [path for path in paths if any(each.get(path) != settings[0].get(path) for each in settings)]
