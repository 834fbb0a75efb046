"""Densities of the layers: as dots at one level, and as a heat map over all levels."""

import json
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .figures import NARROW, WIDE, Drawing, Style, density_axis, start, with_legend

COLOUR_MAP = "cividis"  # of even lightness steps, and the same to colour-blind readers


def layer_table(records: pd.DataFrame, curves: Sequence[str]) -> pd.DataFrame:
    """Return densities as fractions: curve, level, left (of the whole), layer, and over seeds mean, low, high.

    Curves as given, levels rising, layers in the order of the network; only what has been recorded.
    """
    recorded = ~records["layer_density"].fillna("").isin(["", "{}"]) & records["curve"].isin(curves)
    known = records.loc[recorded, ["curve", "level", "density", "layer_density"]]
    layers = [json.loads(text) for text in known.pop("layer_density")]
    # by place and not by index: tables that were put together may repeat an index
    long = known.iloc[np.repeat(np.arange(len(known)), [len(each) for each in layers])].rename(columns={"density": "left"})
    long["layer"] = [name for each in layers for name in each]
    long["mean"] = [value for each in layers for value in each.values()]
    long["curve"] = pd.Categorical(long["curve"], list(curves))
    long["place"] = long.groupby("layer", sort=False).ngroup()
    groups = long.groupby(["curve", "level", "place", "layer"], observed=True)
    found = groups.agg(left=("left", "mean"), mean=("mean", "mean"), low=("mean", "min"), high=("mean", "max")).reset_index()
    return found[["curve", "level", "left", "layer", "mean", "low", "high"]].astype({"curve": str})


def dots(found: pd.DataFrame, look: dict[str, Style]) -> Drawing:
    """Draw a row per layer, the first one on top; a dot per curve, whose bar spans the seeds. Empty layers have no dot.

    `found` is a layer table of one level.
    """
    layers, curves = list(found["layer"].unique()), list(found["curve"].unique())
    row = 0.34 if len(layers) <= 20 else 0.2  # inches
    figure, axes = start(WIDE, 0.9 + row * len(layers), curves)
    numbers = _numbers(found)
    for i, curve in enumerate(curves):
        rows = numbers[(numbers["curve"] == curve) & (numbers["mean"] > 0)]
        offset = 0.6 * ((i + 0.5) / len(curves) - 0.5)
        heights = [layers.index(layer) + offset for layer in rows["layer"]]
        axes.hlines(heights, rows["low"], rows["high"], color=look[curve]["color"], linewidth=1.2)
        axes.plot(rows["mean"], heights, label=curve, **{**look[curve], "linestyle": "none"}, markersize=5)
    ends = pd.concat([numbers["low"], numbers["high"]])
    density_axis(axes, ends[ends > 0])
    axes.set_xlabel("weights left (%, log scale)")  # short: long names of layers leave it little room
    axes.set_yticks(range(len(layers)), layers)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    for border in range(1, len(layers)):
        axes.axhline(border - 0.5, color="0.9", linewidth=0.6, zorder=0)
    return Drawing(with_legend(figure), numbers)


def heat_map(table: pd.DataFrame, curve: str, least: float) -> Drawing:
    """Draw layers by levels for one curve; the colour is the mean density over seeds, on a log scale from `least` to 1.

    Empty layers stay white. `table` is a layer table.
    """
    found = table[table["curve"] == curve]
    layers = list(found["layer"].unique())
    grid = found.pivot(index="layer", columns="level", values="mean").loc[layers]
    left = found.groupby("level")["left"].first()
    row = 0.3 if len(layers) <= 20 else 0.17  # inches
    figure = Figure(figsize=(NARROW, 1.35 + row * len(layers)), layout="constrained")
    axes = figure.add_subplot()
    shades = np.ma.masked_less_equal(100 * grid.to_numpy(dtype=float), 0)
    norm = LogNorm(100 * min(least, 0.999), 100)
    image = axes.pcolormesh(shades, cmap=COLOUR_MAP, norm=norm, edgecolors="white", linewidth=0.6)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_yticks(np.arange(len(layers)) + 0.5, layers, fontsize=8 if len(layers) <= 20 else 6)
    every = math.ceil(len(grid.columns) / 7)
    shown = list(range(0, len(grid.columns), every))
    axes.set_xticks([i + 0.5 for i in shown], [f"{100 * left.iloc[i]:.3g}" for i in shown])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(curve, fontsize=9, loc="left")
    axes.set_xlabel("weights left overall (%), a column a level")
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, pad=0.02)
    bar.set_label("weights left in the layer (%, log scale)")
    bar.outline.set_visible(False)
    bar.ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if least > 1e-3 else (1,)))
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return Drawing(figure, _numbers(found))


def least_density(table: pd.DataFrame) -> float:
    """Return the smallest positive mean of a layer table, where colours begin."""
    return float(table.loc[table["mean"] > 0, "mean"].min())


def _numbers(found: pd.DataFrame) -> pd.DataFrame:
    """Return a layer table in percent, as it is plotted."""
    percent = {name: 100 * found[name] for name in ("mean", "low", "high")}
    numbers = found.assign(weights_left_percent=100 * found["left"], quantity="weights left in the layer (%)", **percent)
    return numbers[["quantity", "curve", "level", "weights_left_percent", "layer", "mean", "low", "high"]]
