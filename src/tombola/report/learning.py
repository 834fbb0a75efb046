"""Learning curves of the dense networks and of the sparsest level, from the histories of their trainings."""

import pandas as pd

from .figures import Cell, grid
from .looks import Style
from .panels import Panel
from .plate import Plate
from .statistics import shared_level

SHOWN = {"loss": "training loss (nats)", "nll": "held-out NLL (nats)", "accuracy": "held-out accuracy (%)"}
"""Columns of a history -> axes."""


def learning(panel: Panel, look: dict[str, Style], histories: pd.DataFrame | None) -> list[Plate]:
    """Return the figure of a panel's learning curves, if any training has kept some.

    histories: a row for each epoch of a training, with curve, seed, level and columns of `SHOWN`.
    """
    if histories is None or histories.empty:
        return []
    curves = panel.uncontrolled() or panel.curves
    known = histories[histories["curve"].isin(curves)]
    shown = [name for name in SHOWN if name in known and known[name].notna().any()]
    if not shown:
        return []
    last = shared_level(panel.records, curves, panel.main.name)
    levels = list(dict.fromkeys([0, last or 0]))
    cells = [
        Cell(
            row=row,
            column=column,
            title=(title := f"{SHOWN[name]}, {'dense' if level == 0 else f'level {level}'}"),
            axis=title,
            points=_points(known[known["level"] == level], name),
            band=True,
        )
        for row, level in enumerate(levels)
        for column, name in enumerate(shown)
        if (known["level"] == level).any()
    ]
    if not cells:
        return []
    drawing = grid(cells, {curve: look[curve] for curve in curves}, "epoch")
    which = (
        "the dense networks" if len(levels) == 1 else f"the dense networks, and of level {last}, the sparsest that all have"
    )
    caption = (
        f"The epochs of {which}, without controls: mean and range over seeds. Held-out numbers are of the posterior's mean "
        "weights, one pass. A training that starts from a rewound state begins at that epoch."
    )
    return [Plate(title="Learning curves", drawings={f"{panel.number}-learning": drawing}, caption=caption)]


def _points(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the mean and range over seeds of each epoch: curve, x, mean, low, high, n."""
    scale = 100 if name == "accuracy" else 1
    found = rows.groupby(["curve", "epoch"])[name].agg(["mean", "min", "max", "count"]).mul([scale, scale, scale, 1])
    found = found.reset_index().rename(columns={"epoch": "x", "min": "low", "max": "high", "count": "seeds"})
    return found[found["mean"].notna()]
