"""Figures of small plots of curves, made without pyplot and so without global state."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from tombola.metrics.column import Column

from .looks import AXIS, INK, NULL, NULL_LINE, Style
from .statistics import summary

WIDTH, HEIGHT = 3.9, 2.6  # inches of a plot; legible on a telephone, and three stand side by side on a desk
SMALL = 2.3  # inches: height of the plots of many nets
LEFT, RIGHT, TOP, BOTTOM = 0.56, 0.12, 0.3, 0.42  # inches around the axes: equal ones align plots that stand side by side
LOG_FACTOR = 20  # an NLL range beyond this factor is drawn on a log axis
ASIDE = 0.012  # of the axis' length between two curves, so that their bars do not hide one another
PERFECT = "perfect calibration"
SHARES = {"density": "weights_left_percent", "operations": "operations_left_percent"}
"""Shares that x axes show, and their columns in tables of numbers."""


@dataclass(frozen=True)
class Drawing:
    """A figure, and its plotted numbers: a tidy table in the units of its axes.

    Element ids "cell0", "cell1-bar", ... name the plot that a part belongs to; a page shows each plot by itself.
    """

    figure: Figure
    numbers: pd.DataFrame
    boxes: tuple[tuple[float, float, float, float], ...]
    """Left, top, width and height of each plot in inches, from the figure's upper left corner."""
    across: int = 1
    """Number of plots side by side on a wide page."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A small plot: its place in the grid, its title, and its points: curve, x, mean, low, high, and more."""

    row: int
    column: int
    title: str
    axis: str
    """Label of the values' axis, with the unit."""
    points: pd.DataFrame
    band: bool = False
    """True: a band spans the seeds; False: a bar at each mark, moved aside."""
    chance: float = math.nan
    """Value that guessing would have; NaN: not drawn."""
    shade: tuple[float, float] | None = None
    """Values between which the plot is shaded, as another plot shows them closer."""
    log: bool = False
    own_scale: bool = False
    """True: the values' axis is not shared with the plots of the same row."""


def plotted(records: pd.DataFrame, quantity: Column) -> pd.DataFrame:
    """Return the numbers of the curves: quantity, curve, level, weights_left_percent, mean, low, high, seeds."""
    found = summary(records, quantity.name)
    return pd.DataFrame(
        {
            "quantity": quantity.axis_label,
            "curve": found["curve"],
            "level": found["level"],
            "weights_left_percent": 100 * found["density"],
            **{name: quantity.scale * found[name] for name in ("mean", "low", "high")},
            "seeds": found["n"],
        }
    )


def null_of(records: pd.DataFrame, quantity: Column) -> pd.DataFrame:
    """Return the null as one more curve: means over the curves, by level; low and high are the ends of its 95% range."""
    columns = {f"{quantity.name}_null{end}": name for end, name in (("", "mean"), ("_low", "low"), ("_high", "high"))}
    null = records.groupby("level")[["density", *columns]].mean().reset_index().rename(columns=columns)
    null["weights_left_percent"] = 100 * null.pop("density")
    return null.assign(quantity=quantity.axis_label, curve=PERFECT)


def cell(records: pd.DataFrame, quantity: Column, *, row: int = 0, column: int = 0, title: str = "", **how: Any) -> Cell:
    """Return the plot of a quantity over weights left; of a calibration error with its null."""
    points = plotted(records, quantity)
    if f"{quantity.name}_null" in records and len(points):
        points = pd.concat([points, null_of(records, quantity)], ignore_index=True)
    points = points.drop(columns="quantity").rename(columns={"weights_left_percent": "x"})
    means = points["mean"]
    log = quantity.name == "nll" and means.min() > 0 and means.max() / means.min() > LOG_FACTOR
    axis = f"{quantity.axis_label}, log scale" if log else quantity.axis_label
    return Cell(row=row, column=column, title=title or axis, axis=axis, points=points, log=log, **how)


def canvas(
    rows: Sequence[float], columns: int, labels: Sequence[str], *, left: float = LEFT, top: float = TOP
) -> tuple[Figure, list[list[Axes]], list[list[tuple[float, float, float, float]]]]:
    """Return a figure of rows of these heights in inches, its axes, and their boxes; room for a legend is below.

    Each box has its axes at the same place, so that no layout need be computed and neighbours are aligned.
    """
    width, legend = WIDTH * columns, _legend_room(WIDTH * columns, labels)
    height = sum(rows) + legend
    figure = Figure(figsize=(width, height))
    axes, boxes, above = [], [], 0.0
    for row in rows:
        boxes.append([(WIDTH * i, above, WIDTH, row) for i in range(columns)])
        axes.append(
            [
                figure.add_axes(
                    (
                        (x + left) / width,
                        1 - (above + row - BOTTOM) / height,
                        (WIDTH - left - RIGHT) / width,
                        (row - top - BOTTOM) / height,
                    )
                )
                for x, *_ in boxes[-1]
            ]
        )
        above += row
    return figure, axes, boxes


def grid(cells: Sequence[Cell], look: dict[str, Style], across: str, *, height: float = SMALL) -> Drawing:
    """Draw cells with one x axis, and one axis of values for each row. `across`: one of `SHARES`, or x's label.

    The numbers are the points of all cells, with `panel`, the title, and `quantity`, the axis.
    """
    ordered = sorted(cells, key=lambda cell: (cell.row, cell.column))
    rows, columns = 1 + ordered[-1].row, 1 + max(cell.column for cell in cells)
    present = set().union(*(cell.points["curve"] for cell in cells))
    names = [name for name in look if name in present]
    figure, axes, boxes = canvas([height] * rows, columns, [*names, *([PERFECT] if PERFECT in present else [])])
    places = {(cell.row, cell.column): (axes[cell.row][cell.column], cell) for cell in ordered}
    for i in range(rows):
        for j in range(columns):
            if (i, j) not in places:
                axes[i][j].remove()
    for number, (one, cell) in enumerate(places.values()):
        one.set_gid(f"cell{number}")
        _draw(one, cell, {name: look[name] for name in names}, across)
    _share(list(places.values()), across)
    for one, cell in places.values():
        _mark(one, cell)
    numbers = pd.concat([cell.points.assign(panel=cell.title, quantity=cell.axis) for cell in cells], ignore_index=True)
    if across in SHARES:
        numbers = numbers.rename(columns={"x": SHARES[across]})
    found = tuple(boxes[row][column] for row, column in places)
    return Drawing(with_legend(figure), numbers, found, columns)


def _draw(axes: Axes, cell: Cell, look: dict[str, Style], across: str) -> None:
    points = cell.points
    present = [name for name in look if (points["curve"] == name).any()]
    null = points[points["curve"] == PERFECT]
    if len(null):  # a range that belongs to no curve
        axes.fill_between(null["x"], null["low"], null["high"], color=NULL, linewidth=0, zorder=0)
        axes.plot(null["x"], null["mean"], label=PERFECT, color=NULL_LINE, linewidth=1, zorder=1)
    reach = np.log(points["x"].max() / points["x"].min()) if across in SHARES else np.ptp(points["x"])
    for i, name in enumerate(present):
        rows, style = points[points["curve"] == name].sort_values("x"), look[name]
        if cell.band:
            band(axes, rows, "x", "seeds", name, style, i)
            continue
        step = ASIDE * reach * (i - (len(present) - 1) / 2)
        x = rows["x"] * np.exp(-step) if across in SHARES else rows["x"] + step
        axes.vlines(x, rows["low"], rows["high"], color=style["color"], linewidth=0.9, alpha=0.75, zorder=2)
        axes.plot(x, rows["mean"], label=name, zorder=3 + 1 / (1 + i), **style, linewidth=1.2, markersize=3.6)
    entitle(axes, cell.title)
    if len(null):
        axes.set_ylim(bottom=0)
    if cell.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def entitle(axes: Axes, title: str, left: float = LEFT) -> None:
    """Set the title at the left edge of the plot's box, `left` inches before the axes; a long one has small letters."""
    inches = WIDTH - left - RIGHT
    size = min(9.0, 72 * WIDTH / (0.6 * max(1, len(title))))
    axes.set_title(title, fontsize=size, loc="left", color=INK, x=(0.06 - left) / inches)


def _share(places: list[tuple[Axes, Cell]], across: str) -> None:
    """Give all plots one x axis, and the plots of a row and a quantity one axis of values."""
    x = pd.concat([cell.points["x"] for _, cell in places])
    for axes, cell in places:
        if across in SHARES:
            density_axis(axes, x, "weights" if across == "density" else across)
            most, least = axes.get_xlim()
            axes.set_xlim(1.06 * most, least / 1.06)  # marks that were moved aside stay within
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.set_xlabel(across)
            axes.set_xlim(x.min() - 0.5, x.max() + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        alike = [o for o, c in places if (c.row, c.axis, c.own_scale) == (cell.row, cell.axis, False) or o is axes]
        ends = [one.get_ylim() for one in alike]
        if not cell.own_scale:
            axes.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
        if cell.title != cell.axis:
            axes.set_ylabel(cell.axis)


def _mark(axes: Axes, cell: Cell) -> None:
    """Draw the line of chance, and the shade of what another plot shows closer."""
    if cell.shade:
        axes.axhspan(*cell.shade, color=NULL, alpha=0.45, linewidth=0, zorder=0)
    if math.isnan(cell.chance):
        return
    low, high = axes.get_ylim()
    words = f"chance {cell.chance:.3g}%"
    if cell.chance < low and cell.shade is None:  # far below: a line there would flatten the curves
        axes.annotate(f"{words} \N{DOWNWARDS ARROW}", (0.015, 0.03), xycoords="axes fraction", fontsize=8, color=AXIS)
        return
    axes.set_ylim(min(low, cell.chance - 0.04 * (high - cell.chance)), high)
    axes.axhline(cell.chance, color=AXIS, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    axes.annotate(
        words, (0.015, cell.chance), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
        fontsize=8, color=AXIS,
    )  # fmt: skip


def band(axes: Axes, rows: pd.DataFrame, x: str, count: str, label: str, style: Style, place: int) -> None:
    """Draw the means as a line, over a band from low to high where a mean is of several values."""
    if (rows[count] > 1).any():
        axes.fill_between(rows[x], rows["low"], rows["high"], color=style["color"], alpha=0.16, linewidth=0)
    axes.plot(rows[x], rows["mean"], label=label, zorder=3 + 1 / (1 + place), **style)  # the first curve lies on top


def density_axis(axes: Axes, percent: pd.Series, of: str = "weights") -> None:
    """Set a log axis of what is left `of` the dense network, from dense on the left to sparse on the right."""
    most, least = 1.12 * percent.max(), min(percent.min() / 1.12, 0.5 * percent.max())
    axes.set_xscale("log")
    axes.set_xlim(most, least)
    steps = [step * 10.0**power for power in range(2, -5, -1) for step in (5, 2, 1)]
    ticks = [tick for tick in steps if least <= tick <= min(most, 100)]
    if len(ticks) > 8:
        ticks = [tick for tick in ticks if math.log10(tick).is_integer()]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(LogLocator(subs=()))
    axes.set_xlabel(f"{of} left (%, log scale)")


def with_legend(figure: Figure) -> Figure:
    """Add a legend below the plots, where it hides nothing; a label of several plots appears once."""
    found = [axes.get_legend_handles_labels() for axes in figure.axes]
    by_label = {label: handle for handles, names in found for handle, label in zip(handles, names, strict=True)}
    labels, handles = list(by_label), list(by_label.values())
    width = figure.get_figwidth()
    texts = [_folded(width, label) for label in labels]
    columns = _legend_columns(width, labels)
    figure.legend(handles, texts, loc="lower center", ncols=columns, fontsize=_LEGEND, borderaxespad=0.1)
    return figure


_LEGEND = 8.0  # points
_LETTER, _LINE = 0.0074, 0.064  # inches for each point of the font: a letter's width, and the line and gap beside a text


def _legend_room(width: float, labels: Iterable[str]) -> float:
    """Return the height in inches of a legend of these labels."""
    names = list(labels)
    rows = math.ceil(len(names) / _legend_columns(width, names))
    return 0.2 * rows + 0.13 * sum(_folded(width, label).count("\n") for label in names)


def _legend_columns(width: float, labels: Sequence[str]) -> int:
    longest = max(map(len, labels), default=1)
    return max(1, min(len(labels), int(width / (_LEGEND * (_LETTER * longest + _LINE)))))


def _folded(width: float, label: str) -> str:
    """Fold the label into lines of one column: a longer one would leave the figure on both sides."""
    return textwrap.fill(label, max(8, int((width / _LEGEND - _LINE) / _LETTER)))
