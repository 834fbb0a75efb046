"""Densities of the layers: as dots at one level, and as heat maps over all levels, with a row for each layer."""

import json
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .figures import BOTTOM, RIGHT, WIDTH, Drawing, canvas, density_axis, entitle, with_legend
from .looks import GRID, PAPER, Style

COLOUR_MAP = "cividis"  # of even lightness steps, and the same to colour-blind readers
HEAD = 0.52  # inches above the rows: the title, and beside it the bar of colours


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


def profile(table: pd.DataFrame, level: int | None, mapped: Sequence[str], look: dict[str, Style]) -> Drawing:
    """Draw rows of layers, the first on top: dots of all curves at the level, and a heat map over levels for those `mapped`.

    `table` is a layer table; no dots without a level.
    """
    layers = list(table["layer"].unique())
    row = 0.26 if len(layers) <= 20 else 0.14  # inches
    left = 0.2 + min(1.7, 0.062 * max(map(len, layers)))
    columns, curves = len(mapped) + (level is not None), list(table["curve"].unique())
    figure, (axes,), (boxes,) = canvas(
        [HEAD + BOTTOM + row * len(layers)], columns, curves if level is not None else [], left=left, top=HEAD
    )
    for i, one in enumerate(axes):
        one.set_gid(f"cell{i}")
        one.set_yticks(range(len(layers)), layers, fontsize=8 if row > 0.2 else 6)
        one.set_ylim(len(layers) - 0.5, -0.5)
        entitle(one, mapped[i - columns] if i >= columns - len(mapped) else _where(table, level), left)
        one.grid(visible=False, axis="y")
    if level is not None:
        _dots(axes[0], table[table["level"] == level], layers, look)
    least = float(table.loc[table["mean"] > 0, "mean"].min())
    for i, curve in enumerate(mapped, start=columns - len(mapped)):
        _heat_map(axes[i], table[table["curve"] == curve], layers, least)
        width, height = figure.get_size_inches()
        bar = figure.add_axes(((WIDTH * (i + 1) - RIGHT - 1.45) / width, 1 - 0.16 / height, 1.3 / width, 0.07 / height))
        bar.set_gid(f"cell{i}-bar")
        figure.colorbar(axes[i].collections[0], cax=bar, orientation="horizontal")
        _scale(bar, least)
    return Drawing(with_legend(figure), _numbers(table), tuple(boxes), columns)


def _where(table: pd.DataFrame, level: int | None) -> str:
    return f"all curves, {100 * table.loc[table['level'] == level, 'left'].mean():.3g}% left"


def _dots(axes: Axes, found: pd.DataFrame, layers: list[str], look: dict[str, Style]) -> None:
    """Draw a dot per layer and curve, whose bar spans the seeds. Empty layers have no dot."""
    numbers, curves = _numbers(found), list(found["curve"].unique())
    for i, curve in enumerate(curves):
        rows = numbers[(numbers["curve"] == curve) & (numbers["mean"] > 0)]
        heights = [layers.index(layer) + 0.6 * ((i + 0.5) / len(curves) - 0.5) for layer in rows["layer"]]
        axes.hlines(heights, rows["low"], rows["high"], color=look[curve]["color"], linewidth=1.2)
        axes.plot(rows["mean"], heights, label=curve, **{**look[curve], "linestyle": "none"}, markersize=5)
    ends = pd.concat([numbers["low"], numbers["high"]])
    density_axis(axes, ends[ends > 0])
    axes.set_xlabel("weights left in the layer (%, log scale)")
    for border in range(1, len(layers)):
        axes.axhline(border - 0.5, color=GRID, linewidth=0.7, zorder=0)


def _heat_map(axes: Axes, found: pd.DataFrame, layers: list[str], least: float) -> None:
    """Draw layers by levels; the colour is the mean density over seeds, on a log scale from `least` to 1. White: empty."""
    grid = found.pivot(index="layer", columns="level", values="mean").reindex(layers)
    left = found.groupby("level")["left"].first()
    shades = np.ma.masked_invalid(np.ma.masked_less_equal(100 * grid.to_numpy(dtype=float), 0))
    norm = LogNorm(100 * min(least, 0.999), 100)
    edges = np.arange(len(layers) + 1) - 0.5
    axes.pcolormesh(np.arange(len(left) + 1), edges, shades, cmap=COLOUR_MAP, norm=norm, edgecolors=PAPER, linewidth=0.6)
    every = math.ceil(len(left) / 7)
    shown = list(range(0, len(left), every))
    axes.set_xticks([i + 0.5 for i in shown], [f"{100 * left.iloc[i]:.3g}" for i in shown])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("weights left overall (%)")


def _scale(bar: Axes, least: float) -> None:
    bar.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if least > 0.05 else (1,)))
    bar.xaxis.set_minor_locator(NullLocator())
    bar.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}%"))
    bar.tick_params(length=2, labelsize=7, pad=1)
    bar.spines[:].set_visible(False)
    bar.grid(visible=False)


def _numbers(found: pd.DataFrame) -> pd.DataFrame:
    """Return a layer table in percent, as it is plotted."""
    percent = {name: 100 * found[name] for name in ("mean", "low", "high")}
    numbers = found.assign(weights_left_percent=100 * found["left"], quantity="weights left in the layer (%)", **percent)
    return numbers[["quantity", "curve", "level", "weights_left_percent", "layer", "mean", "low", "high"]]
