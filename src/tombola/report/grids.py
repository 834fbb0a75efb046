"""Many small plots in one figure, a column for each net, with one legend."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from tombola.report.figures import PERFECT, WIDE, Drawing, Style, density_axis, legend_room, with_legend

ASIDE = 0.012  # of the axis' length between two curves, so that their bars do not hide one another


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A small plot: its place in the grid, what stands above it, and its points: curve, x, mean, low, high, and more."""

    row: int
    column: int
    title: str
    axis: str
    """Of the values, with their unit."""
    points: pd.DataFrame


def grid(cells: Sequence[Cell], look: dict[str, Style], across: str) -> Drawing:
    """The cells with a mark for each point and a bar from low to high. `across`: "density" (x in percent), or x's label.

    The numbers are the points of all cells, with `panel`, the title, and `quantity`, the axis; `x` as it is called in files.
    """
    rows, columns = 1 + max(cell.row for cell in cells), 1 + max(cell.column for cell in cells)
    there = set().union(*(cell.points["curve"] for cell in cells))
    look = look | ({PERFECT: {}} if PERFECT in there else {})
    names = [name for name in look if name in there]
    width = max(WIDE, 2.55 * columns)
    figure = Figure(figsize=(width, 0.35 + 1.95 * rows + legend_room(width, names)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for one in axes.ravel():
        one.set_visible(False)
    for cell in cells:
        one = axes[cell.row][cell.column]
        one.set_visible(True)
        _draw(one, cell, {name: look[name] for name in names}, across)
        if cell.column:
            one.set_ylabel("")
        if any(other.column == cell.column and other.row > cell.row for other in cells):
            one.set_xlabel("")
    numbers = pd.concat([cell.points.assign(panel=cell.title, quantity=cell.axis) for cell in cells], ignore_index=True)
    if across == "density":
        numbers = numbers.rename(columns={"x": "weights_left_percent"})
    return Drawing(with_legend(figure), numbers)


def _draw(axes: Axes, cell: Cell, look: dict[str, Style], across: str) -> None:
    points = cell.points
    present = [name for name in look if (points["curve"] == name).any()]
    reach = np.log(points["x"].max() / points["x"].min()) if across == "density" else np.ptp(points["x"])
    for i, name in enumerate(present):
        rows = points[points["curve"] == name].sort_values("x")
        step = ASIDE * reach * (i - (len(present) - 1) / 2)
        x = rows["x"] * np.exp(-step) if across == "density" else rows["x"] + step
        if name == PERFECT:  # a range that belongs to no curve
            axes.fill_between(rows["x"], rows["low"], rows["high"], color="0.86", linewidth=0, zorder=0)
            axes.plot(rows["x"], rows["mean"], label=name, color="0.5", linewidth=1, zorder=1)
            continue
        axes.vlines(x, rows["low"], rows["high"], color=look[name]["color"], linewidth=0.9, alpha=0.75, zorder=2)
        axes.plot(x, rows["mean"], label=name, zorder=3 + 1 / (1 + i), **look[name], linewidth=1.2, markersize=3.6)
    if across == "density":
        density_axis(axes, points["x"])
        most, least = axes.get_xlim()
        axes.set_xlim(1.12 * most, least / 1.12)  # marks that were moved aside stay within
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("weights left (%, log scale)")
    else:
        axes.set_xlabel(across)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(cell.title, fontsize=8.5, loc="left")
    axes.set_ylabel(cell.axis)
    axes.tick_params(labelsize=8)
