"""The figures of views: lines with what chance gives, and a matrix of correlations."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from tombola.report.figures import NARROW, Drawing, Style, density_axis, start, with_legend

CHANCE = "by chance, at the same layer densities"


def over_seeds(rows: pd.DataFrame, line: str, x: str) -> pd.DataFrame:
    """One row a line and place: mean, low and high of `value`, mean of `chance`, how many there are; places fall."""
    found = rows.groupby([line, x], as_index=False, sort=False).agg(
        mean=("value", "mean"),
        low=("value", "min"),
        high=("value", "max"),
        chance=("chance", "mean"),
        n=("value", "count"),
    )
    return found.rename(columns={line: "line", x: "x"}).sort_values(
        ["line", "x"], ascending=[True, False], ignore_index=True
    )


def lines(found: pd.DataFrame, look: dict[str, Style], quantity: str, axis: str) -> Drawing:
    """Lines with bands from the smallest to the largest, and dotted what chance gives. axis: "density", or its label.

    `found` is a table of `over_seeds`; `look` gives the order.
    """
    present = [name for name in look if (found["line"] == name).any()]
    by_chance = bool(found["chance"].notna().any())
    figure, axes = start(NARROW, 1.6 + 0.3 * NARROW, [*present, *([CHANCE] if by_chance else [])])
    shown = found.assign(x=100 * found["x"]) if axis == "density" else found
    for i, name in enumerate(present):
        rows = shown[shown["line"] == name]
        if (rows["n"] > 1).any():
            axes.fill_between(rows["x"], rows["low"], rows["high"], color=look[name]["color"], alpha=0.16, linewidth=0)
        axes.plot(rows["x"], rows["mean"], label=name, zorder=3 + 1 / (1 + i), **look[name])
        if by_chance:
            axes.plot(rows["x"], rows["chance"], color=look[name]["color"], linestyle=":", linewidth=1)
    if by_chance:
        axes.plot([], [], color="0.4", linestyle=":", linewidth=1, label=CHANCE)
    _across(axes, shown["x"], axis)
    axes.set_ylabel(quantity)
    numbers = shown.rename(columns={"x": "weights_left_percent" if axis == "density" else "x", "line": "curve"})
    return Drawing(with_legend(figure), numbers.assign(quantity=quantity))


def matrix(table: pd.DataFrame, names: Sequence[str], label: str) -> Drawing:
    """Correlations of every pair of names as colours, from -1 to 1, with their numbers. table: a, b, mean, low, high."""
    grid = np.eye(len(names))
    for a, b, mean in zip(table["a"], table["b"], table["mean"], strict=True):
        i, j = names.index(a), names.index(b)
        grid[i, j] = grid[j, i] = mean
    figure, axes = start(NARROW, 0.9 + 0.36 * len(names), [])
    image = axes.pcolormesh(np.ma.masked_invalid(grid), cmap="PuOr", vmin=-1, vmax=1, edgecolors="white", linewidth=0.6)
    for i in range(len(names)):
        for j in range(len(names)):
            if np.isfinite(grid[i, j]):
                dark = abs(grid[i, j]) > 0.7
                axes.text(
                    j + 0.5, i + 0.5, f"{grid[i, j]:.2f}", ha="center", va="center", fontsize=7, color="w" if dark else "k"
                )
    places = np.arange(len(names)) + 0.5
    axes.set_xticks(places, names, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)
    return Drawing(figure, table.assign(quantity=label))


def _across(axes: Axes, places: pd.Series, axis: str) -> None:
    if axis == "density":
        density_axis(axes, places)
    else:
        axes.set_xlabel(axis)
