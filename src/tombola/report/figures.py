"""The figures. They are made without pyplot, so that no global state is left behind."""

import json
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tombola.report.quantities import Quantity
from tombola.report.statistics import summary

# Okabe and Ito's colours, which colour-blind readers can tell apart; without yellow, too pale on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")  # ten and seven: no pair returns before the 70th curve
DASHES = ("-", "--", ":", "-.")
WIDE, NARROW = 5.2, 3.75  # inches; a narrow one fills half a page or a telephone
LOG_FACTOR = 20  # an NLL range beyond this factor is drawn on a log axis

Style = dict[str, Any]


def styles(curves: list[str]) -> dict[str, Style]:
    """Colour, marker and dashes of every curve: the same one in all figures of a page."""
    return {
        curve: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": DASHES[i // len(COLOURS) % len(DASHES)],
        }
        for i, curve in enumerate(curves)
    }


def over_density(records: pd.DataFrame, quantity: Quantity, look: dict[str, Style], *, width: float = WIDE) -> Figure:
    """The quantity over weights left: per curve the mean over seeds, and a band from the smallest to the largest."""
    figure, axes = _start(width, 1.6 + 0.3 * width, look)
    found = summary(records, quantity.column)
    _draw_curves(axes, found, quantity, look)
    _density_axis(axes, found["density"])
    if quantity.column == "nll" and _wide_range(found["mean"]):
        _log_value_axis(axes)
    return _with_legend(figure)


def calibration(records: pd.DataFrame, quantity: Quantity, look: dict[str, Style]) -> Figure:
    """The same for a calibration error, over the grey band of what perfect calibration would show."""
    figure, axes = _start(NARROW, 1.6 + 0.3 * NARROW, [*look, "perfect calibration"])
    mean, low, high = (f"{quantity.column}_null{end}" for end in ("", "_low", "_high"))
    null = records.groupby("level")[["density", mean, low, high]].mean()
    axes.fill_between(100 * null["density"], null[low], null[high], color="0.82", linewidth=0, zorder=0)
    axes.plot(100 * null["density"], null[mean], color="0.5", linewidth=1, zorder=1, label="perfect calibration")
    found = summary(records, quantity.column)
    _draw_curves(axes, found, quantity, look)
    _density_axis(axes, found["density"])
    axes.set_ylim(bottom=0)
    return _with_legend(figure)


@dataclass(frozen=True)
class LayerDensity:
    """The density of one layer on one curve: mean and range over seeds."""

    curve: str
    layer: str
    mean: float
    low: float
    high: float


def layer_densities(records: pd.DataFrame, curves: list[str], level: int) -> list[LayerDensity]:
    """Mean and range over seeds for every curve and layer at that level; layers in the order of the network."""
    found = []
    for curve in curves:
        rows = records[(records["curve"] == curve) & (records["level"] == level)]
        table = pd.DataFrame([json.loads(text) for text in rows["layer_density"]])
        for layer in table.columns:
            found.append(
                LayerDensity(curve, layer, table[layer].mean(), table[layer].min(), table[layer].max()),
            )
    return found


def per_layer(found: list[LayerDensity], look: dict[str, Style]) -> Figure:
    """A row per layer, the first one on top; a dot per curve, whose bar spans the seeds. Empty layers have no dot."""
    layers = list(dict.fromkeys(each.layer for each in found))
    curves = list(dict.fromkeys(each.curve for each in found))
    row = 0.34 if len(layers) <= 20 else 0.2  # inches
    figure, axes = _start(WIDE, 0.9 + row * len(layers), {curve: look[curve] for curve in curves})
    for i, curve in enumerate(curves):
        dots = [each for each in found if each.curve == curve and each.mean > 0]
        offset = 0.6 * ((i + 0.5) / len(curves) - 0.5)
        heights = [layers.index(each.layer) + offset for each in dots]
        lows, highs = [100 * each.low for each in dots], [100 * each.high for each in dots]
        axes.hlines(heights, lows, highs, color=look[curve]["color"], linewidth=1.2)
        axes.plot(
            [100 * each.mean for each in dots],
            heights,
            label=curve,
            **{**look[curve], "linestyle": "none"},
            markersize=5,
        )
    _density_axis(axes, pd.Series([end for each in found for end in (each.low, each.high) if end > 0]))
    axes.set_xlabel("weights left in the layer (%, log scale)")
    axes.set_yticks(range(len(layers)), layers)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    for border in range(1, len(layers)):
        axes.axhline(border - 0.5, color="0.9", linewidth=0.6, zorder=0)
    return _with_legend(figure)


def _start(width: float, height: float, labels: Any) -> tuple[Figure, Axes]:
    names = list(labels)
    rows = math.ceil(len(names) / _legend_columns(width, names))
    figure = Figure(figsize=(width, height + 0.19 * rows), layout="constrained")
    return figure, figure.add_subplot()


def _with_legend(figure: Figure) -> Figure:
    # below the plot, where it can hide nothing
    handles, labels = figure.axes[0].get_legend_handles_labels()
    width = figure.get_figwidth()
    columns, size = _legend_columns(width, labels), _legend_size(width)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=size)
    return figure


def _legend_columns(width: float, labels: list[str]) -> int:
    longest = max(map(len, labels), default=1)
    inches = _legend_size(width) * (0.0074 * longest + 0.064)  # of a column: the text, then line and gap
    return max(1, min(len(labels), int(width / inches)))


def _legend_size(width: float) -> float:
    return 7.5 if width < WIDE else 8.5


def _draw_curves(axes: Axes, found: pd.DataFrame, quantity: Quantity, look: dict[str, Style]) -> None:
    present = [curve for curve in look if (found["curve"] == curve).any()]
    for i, curve in enumerate(present):
        rows = found[found["curve"] == curve]
        x = 100 * rows["density"]
        if (rows["n"] > 1).any():
            low, high = quantity.scale * rows["low"], quantity.scale * rows["high"]
            axes.fill_between(x, low, high, color=look[curve]["color"], alpha=0.16, linewidth=0)
        order = 3 + 1 / (1 + i)  # the first curve, the reference, lies on top
        axes.plot(x, quantity.scale * rows["mean"], label=curve, zorder=order, **look[curve])
    axes.set_ylabel(quantity.axis)


def _density_axis(axes: Axes, density: pd.Series) -> None:
    most, least = 118 * density.max(), min(100 * density.min() / 1.18, 50 * density.max())
    axes.set_xscale("log")
    axes.set_xlim(most, least)  # from dense on the left to sparse on the right
    steps = [step * 10.0**power for power in range(2, -5, -1) for step in (5, 2, 1)]
    ticks = [tick for tick in steps if least <= tick <= min(most, 100)]
    if len(ticks) > 8:
        ticks = [tick for tick in ticks if math.log10(tick).is_integer()]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(LogLocator(subs=()))
    axes.set_xlabel("weights left (% of prunable, log scale)")


def _wide_range(values: pd.Series) -> bool:
    return bool(values.min() > 0 and values.max() / values.min() > LOG_FACTOR)


def _log_value_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(f"{axes.get_ylabel()}, log scale")
