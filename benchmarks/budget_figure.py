"""The figure of `benchmarks.budget`: test accuracy over operations and milliseconds, a curve for each exponent."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd

from benchmarks.paper.figures import write
from benchmarks.record import Row
from tombola.report.figures import Cell, grid
from tombola.report.images import SETTINGS
from tombola.report.looks import styles


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the PNG, and its numbers as CSV beside it: a row of plots for each net."""
    cells = []
    for place, row in enumerate(rows):
        curves = pd.DataFrame(row["curves"]).astype(float)
        dense = curves.loc[curves["level"] == 0, "milliseconds"].mean()
        shares = {"operations": curves["flops_left"], "milliseconds": curves["milliseconds"] / dense}
        for column, (what, share) in enumerate(shares.items()):
            title = f"{row['net']} (small relative), {what}"
            points = _points(curves.assign(x=100 * share).dropna(subset="x"))
            cells.append(Cell(row=place, column=column, title=title, axis="test accuracy (%)", points=points, band=True))
    names = list(dict.fromkeys(cells[0].points["curve"]))
    with matplotlib.rc_context(SETTINGS):
        drawing = grid(cells, styles(names), "operations")
        for axes in drawing.figure.axes:
            axes.set_xlabel("share of the dense network's (%, log scale)")
        write(drawing, path.parent, path.stem)


def _points(curves: pd.DataFrame) -> pd.DataFrame:
    """Return mean and range over seeds of each exponent and level."""
    groups = curves.assign(test=100 * curves["test"]).groupby(["exponent", "level"])
    found = (
        groups["test"].agg(["mean", "min", "max", "count"]).rename(columns={"min": "low", "max": "high", "count": "seeds"})
    )
    found = found.assign(x=groups["x"].mean()).reset_index()
    return found.assign(curve=[f"snr / cost^{exponent:g}" if exponent else "snr" for exponent in found["exponent"]])
