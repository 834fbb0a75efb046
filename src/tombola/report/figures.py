"""Figures of curves over weights left, made without pyplot and so without global state."""

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

from .statistics import summary

# Okabe and Ito's colours, which colour-blind readers can tell apart; without yellow, too pale on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")  # ten and seven: no pair returns before the 70th curve
DASHES = ("-", "--", ":", "-.")
WIDE, NARROW = 4.4, 3.75  # inches; a narrow one fills half a page, both are legible on a telephone
LOG_FACTOR = 20  # an NLL range beyond this factor is drawn on a log axis

Style = dict[str, Any]


@dataclass(frozen=True)
class Drawing:
    """A figure, and its plotted numbers: a tidy table in the units of its axes."""

    figure: Figure
    numbers: pd.DataFrame


def styles(curves: list[str]) -> dict[str, Style]:
    """Return colour, marker and dashes of every curve, the same in all figures of a page."""
    return {
        curve: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": DASHES[i // len(COLOURS) % len(DASHES)],
        }
        for i, curve in enumerate(curves)
    }


def over_density(
    records: pd.DataFrame, quantity: Column, look: dict[str, Style], *, width: float = WIDE, null: bool = False
) -> Drawing:
    """Draw the quantity over weights left: per curve the mean over seeds, and a band from the smallest to the largest.

    null: over the grey band of perfect calibration, for a calibration error.
    """
    figure, axes = start(width, 1.6 + 0.3 * width, [*look, *([PERFECT] if null else [])])
    found = plotted(records, quantity)
    numbers = [found]
    if null:
        grey = null_of(records, quantity)
        axes.fill_between(grey["weights_left_percent"], grey["low"], grey["high"], color="0.82", linewidth=0, zorder=0)
        axes.plot(grey["weights_left_percent"], grey["mean"], color="0.5", linewidth=1, zorder=1, label=PERFECT)
        numbers.append(grey)
    for i, curve in enumerate(curve for curve in look if (found["curve"] == curve).any()):
        band(axes, found[found["curve"] == curve], "weights_left_percent", "seeds", curve, look[curve], i)
    axes.set_ylabel(quantity.axis_label)
    density_axis(axes, found["weights_left_percent"])
    low, high = found["mean"].min(), found["mean"].max()
    if null:
        axes.set_ylim(bottom=0)
    elif quantity.name == "nll" and low > 0 and high / low > LOG_FACTOR:
        _log_value_axis(axes)
    return Drawing(with_legend(figure), pd.concat(numbers, ignore_index=True))


def band(axes: Axes, rows: pd.DataFrame, x: str, count: str, label: str, style: Style, place: int) -> None:
    """Draw the means as a line, over a band from low to high where a mean is of several values."""
    if (rows[count] > 1).any():
        axes.fill_between(rows[x], rows["low"], rows["high"], color=style["color"], alpha=0.16, linewidth=0)
    axes.plot(rows[x], rows["mean"], label=label, zorder=3 + 1 / (1 + place), **style)  # the first curve lies on top


PERFECT = "perfect calibration"


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


def start(width: float, height: float, labels: Iterable[str]) -> tuple[Figure, Axes]:
    """Return a figure of this size in inches, with room below for a legend of these labels."""
    figure = Figure(figsize=(width, height + legend_room(width, list(labels))), layout="constrained")
    return figure, figure.add_subplot()


def legend_room(width: float, labels: list[str]) -> float:
    """Return the height in inches of a legend of these labels."""
    rows = math.ceil(len(labels) / _legend_columns(width, labels))
    return 0.19 * rows + 0.13 * sum(_folded(width, label).count("\n") for label in labels)


def with_legend(figure: Figure) -> Figure:
    """Add a legend below the plots, where it hides nothing; a label of several plots appears once."""
    found = [axes.get_legend_handles_labels() for axes in figure.axes]
    by_label = {label: handle for handles, names in found for handle, label in zip(handles, names, strict=True)}
    labels, handles = list(by_label), list(by_label.values())
    width = figure.get_figwidth()
    columns, size = _legend_columns(width, labels), _legend_size(width)
    texts = [_folded(width, label) for label in labels]
    figure.legend(handles, texts, loc="outside lower center", ncols=columns, fontsize=size)
    return figure


_LETTER, _LINE = 0.0074, 0.064  # inches for each point of the font: a letter's width, and the line and gap beside a text


def _legend_columns(width: float, labels: list[str]) -> int:
    longest = max(map(len, labels), default=1)
    inches = _legend_size(width) * (_LETTER * longest + _LINE)
    return max(1, min(len(labels), int(width / inches)))


def _folded(width: float, label: str) -> str:
    """Fold the label into lines of one column: a longer one would leave the figure on both sides."""
    return textwrap.fill(label, max(8, int((width / _legend_size(width) - _LINE) / _LETTER)))


def _legend_size(width: float) -> float:
    return 7.5 if width < WIDE else 8.5


def density_axis(axes: Axes, percent: pd.Series) -> None:
    """Set a log axis of weights left, from dense on the left to sparse on the right."""
    most, least = 1.18 * percent.max(), min(percent.min() / 1.18, 0.5 * percent.max())
    axes.set_xscale("log")
    axes.set_xlim(most, least)
    steps = [step * 10.0**power for power in range(2, -5, -1) for step in (5, 2, 1)]
    ticks = [tick for tick in steps if least <= tick <= min(most, 100)]
    if len(ticks) > 8:
        ticks = [tick for tick in ticks if math.log10(tick).is_integer()]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(LogLocator(subs=()))
    axes.set_xlabel("weights left (% of prunable, log scale)")


def _log_value_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(f"{axes.get_ylabel()}, log scale")


ASIDE = 0.012  # of the axis' length between two curves, so that their bars do not hide one another


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A small plot: its place in the grid, its title, and its points: curve, x, mean, low, high, and more."""

    row: int
    column: int
    title: str
    axis: str
    """Label of the values' axis, with the unit."""
    points: pd.DataFrame


def grid(cells: Sequence[Cell], look: dict[str, Style], across: str) -> Drawing:
    """Draw cells with a mark for each point and a bar from low to high. `across`: "density" (x in percent), or x's label.

    The numbers are the points of all cells, with `panel`, the title, and `quantity`, the axis.
    """
    rows, columns = 1 + max(cell.row for cell in cells), 1 + max(cell.column for cell in cells)
    present = set().union(*(cell.points["curve"] for cell in cells))
    look = look | ({PERFECT: {}} if PERFECT in present else {})
    names = [name for name in look if name in present]
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
