"""Sections of analyses: figures, captions and sentences computed from the table of analyses."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tombola.metrics.column import left, listed

from .figures import BOTTOM, HEIGHT, TOP, WIDTH, Drawing, band, canvas, density_axis, entitle, with_legend
from .looks import NULL_LINE, PAPER, Style, styles
from .panels import Panel
from .plate import Plate
from .quantities import number

ALONG = "place on the line, from 0 (first ticket) to 1 (second)"
BETWEEN = {
    "noise": "two trainings of one ticket, with other data order and noise",
    "levels": "a ticket and the one of the level before",
    "rewinds": "a ticket and its sibling that was rewound in the learning rate alone",
}
"""Kind of pair -> the two ends of a line between tickets."""
SETTLED = 0.9
"""A mask counts as settled where its Jaccard index with the final one stays at least this."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A section: figures with sentences, as of an analysis."""

    title: str
    findings: list[str]
    plates: list[Plate]


Show = Callable[[Panel, pd.DataFrame, dict[str, Style]], Seen]


def seen(panel: Panel, analyses: pd.DataFrame | None, look: dict[str, Style]) -> list[Seen]:
    """Return a section for each analysis of a panel with numbers, in the order of `SHOWN`; others stay in their table."""
    if analyses is None or analyses.empty:
        return []
    own = panel.records[["model", "data"]].iloc[0]
    here = analyses[
        (analyses["model"] == own["model"]) & (analyses["data"] == own["data"]) & (analyses["variant"] == panel.variant)
    ]
    return [show(panel, rows, look) for name, show in SHOWN.items() if len(rows := here[here["view"] == name])]


def _overlap(panel: Panel, rows: pd.DataFrame, look: dict[str, Style]) -> Seen:
    drawings, said = {}, []
    seeds = rows[rows["between"] == "seeds"]
    if len(seeds):
        drawings[f"{panel.number}-overlap-seeds"] = lines(
            _by_level(seeds, "curve_a"), look, "Jaccard index of two seeds' masks", "density"
        )
        said += [_shared(at, f"The masks of two seeds of {curve}") for curve, at in _last(seeds, "curve_a", look)]
    curves = against(rows[rows["between"] == "curves"], panel.reference)
    if len(curves):
        drawings[f"{panel.number}-overlap-curves"] = lines(
            _by_level(curves, "other"), look, f"Jaccard index with {panel.reference}", "density"
        )
        said += [_shared(at, f"The masks of {panel.reference} and {other}") for other, at in _last(curves, "other", look)]
    caption = (
        "Overlap of masks over weights left: the Jaccard index over the prunable weights, of two seeds of each curve, and "
        f"of each curve with {panel.reference} of the same seed; line: mean over pairs, band: smallest to largest. Dotted: "
        "two independent random masks with the same number of weights in each layer (ratio of expectations), so that only "
        "what lies above it is agreement on which weights of a layer survive."
    )
    return Seen(
        title="overlap of masks", findings=said, plates=[Plate(drawings=drawings, caption=caption)] if drawings else []
    )


def _shared(at: pd.DataFrame, what: str) -> str:
    above, n = int((at["value"] > at["chance"]).sum()), len(at)
    return (
        f"{what} at {left(at['density'].mean())} of weights left have a Jaccard index of {number(at['value'].mean())}; "
        f"chance at their layer densities gives {number(at['chance'].mean())} (means over {n} pair{'s' if n > 1 else ''}; "
        f"above chance in {above})."
    )


def _ranks(panel: Panel, rows: pd.DataFrame, look: dict[str, Style]) -> Seen:
    curve = panel.reference if (rows["curve_a"] == panel.reference).any() else rows["curve_a"].iloc[0]
    own = rows[(rows["curve_a"] == curve) & (rows["quantity"] == "spearman")]
    names = list(dict.fromkeys([*own["score_a"], *own["score_b"]]))
    dense = own[own["level_a"] == own["level_a"].min()]
    table = dense.groupby(["score_a", "score_b"], as_index=False, sort=False)["value"].agg(["mean", "min", "max"])
    table = table.rename(columns={"score_a": "a", "score_b": "b", "min": "low", "max": "high"})
    drawings = {f"{panel.number}-ranks": matrix(table, names, f"Spearman correlation, {curve}, {_where(dense)}")}
    first = names[0]
    later = own[(own["score_a"] == first) & own["value"].notna()]
    if later["level_a"].nunique() > 1:
        drawings[f"{panel.number}-ranks-left"] = lines(
            _by_level(later, "score_b"), styles(names[1:]), f"Spearman correlation with {first}", "density"
        )
    said = [
        f"{first} and {other} have a rank correlation of {number(at['value'].mean())} on {curve}, {_where(dense)}"
        f"{_in_layers(rows, dense, other)}."
        for other, at in dense[dense["score_a"] == first].groupby("score_b", sort=False)
    ]
    caption = (
        f"Spearman's rank correlation of scores over the surviving prunable weights of {curve}, all layers together: of "
        f"every pair {_where(dense)}, and of each score with {first} over weights left; line: mean over seeds, band: "
        "smallest to largest. On sparse tickets the survivors were chosen by that curve's own score, which cuts its range."
    )
    return Seen(title="ranks of scores", findings=said, plates=[Plate(drawings=drawings, caption=caption)])


def _in_layers(rows: pd.DataFrame, dense: pd.DataFrame, other: str) -> str:
    """Return the correlation within layers, as a mean over them."""
    alike = rows[(rows["quantity"] == "spearman_by_layer") & rows["key"].isin(dense["key"])]
    alike = alike[(alike["score_a"] == dense["score_a"].iloc[0]) & (alike["score_b"] == other)]
    value = alike.drop_duplicates("key")["value"].mean()
    return "" if math.isnan(value) else f" ({number(value)} within layers, on average)"


def _connectivity(panel: Panel, rows: pd.DataFrame, look: dict[str, Style]) -> Seen:
    plates, said = [], []
    quantity, what, scale = (
        ("error", "error (%)", 100.0) if (rows["quantity"] == "error_mean").any() else ("rmse", "RMSE", 1.0)
    )
    unit = " percentage points" if quantity == "error" else ""
    for between, ends in BETWEEN.items():
        own = rows[rows["between"] == between].assign(value=lambda r: scale * r["value"])
        barriers = own[own["quantity"] == f"barrier_{quantity}_mean"]
        if barriers.empty:
            continue
        drawings = {}
        name = f"{panel.number}-connectivity-{between}"
        axis = f"barrier of the {what.replace('(%)', '(points)')}"
        drawings[name] = lines(_by_level(barriers, "curve_a"), look, axis, "density")
        last = own[own["level_a"] == own["level_a"].max()]
        path = last[last["quantity"].isin([f"{quantity}_mean", f"{quantity}_samples"])]
        path = path.assign(line=[_path_name(c, q) for c, q in zip(path["curve_a"], path["quantity"], strict=True)])
        drawings[f"{name}-path"] = lines(over_seeds(path, "line", "x"), _path_look(path, look), what, ALONG)
        seen_here = [
            f"{curve} {at['value'].mean():.2f}{unit} at {left(at['density'].mean())} left"
            for curve, at in _last(barriers, "curve_a", look)
        ]
        said.append(f"Barrier of the mean weights between {ends}, at each curve's last level: {listed(seen_here)}.")
        plates.append(
            Plate(
                drawings=drawings,
                caption=f"The straight line between {ends}: how far its {quantity} rises above the straight line between "
                "its ends, for the mean weights, and along the line at the sparsest level; line: mean over seeds, band: "
                "smallest to largest. Means and std are interpolated and batch-norm statistics estimated anew at each "
                "point, from training examples; a barrier near 0 means that both ends lie in one valley.",
            )
        )
    return Seen(title="linear connectivity", findings=said, plates=plates)


def _path_name(curve: str, quantity: str) -> str:
    return f"{curve}, {'mean weights' if quantity.endswith('_mean') else 'weight samples'}"


def _path_look(path: pd.DataFrame, look: dict[str, Style]) -> dict[str, Style]:
    """Return solid lines for the mean weights, dashed ones for samples, in the curve's colour."""
    present = {curve: style for curve, style in look.items() if (path["curve_a"] == curve).any()}
    return {
        _path_name(curve, quantity): style | {"linestyle": dash}
        for curve, style in present.items()
        for quantity, dash in (("_mean", "-"), ("_samples", "--"))
    }


def _early_bird(panel: Panel, rows: pd.DataFrame, look: dict[str, Style]) -> Seen:
    rows = rows.assign(line=[f"{score} of {curve}" for score, curve in zip(rows["score_a"], rows["curve_a"], strict=True)])
    final = rows[rows["quantity"] == "jaccard_final"]
    style = styles(list(dict.fromkeys(final["line"])))
    drawings, said = {}, []
    for density, own in final.groupby("density", sort=False):
        drawings[f"{panel.number}-early-bird-{100 * float(str(density)):g}"] = lines(
            over_seeds(own, "line", "x"), style, f"Jaccard with the final mask, {left(own['density'].iloc[0])}", "epoch"
        )
    for name, own in final.groupby("line", sort=False):
        seen_here = [f"{_settled(at)} at {left(at['density'].iloc[0])}" for _, at in own.groupby("density", sort=False)]
        said.append(
            f"The mask of {name} is settled (a Jaccard index of at least {SETTLED} with the final one from then on) after "
            f"epoch {listed(seen_here)} of weights left, of {int(own['x'].max())} epochs (means over seeds)."
        )
    caption = (
        "How early the mask settles in the training of the dense network: the Jaccard index of the mask that each score "
        "would give after an epoch (0: at the start) with the one at the end, at three densities; line: mean over seeds, "
        "band: smallest to largest. Dotted: two independent random masks with the same number of weights in each layer."
    )
    return Seen(title="early-bird masks", findings=said, plates=[Plate(drawings=drawings, caption=caption)])


def _settled(rows: pd.DataFrame) -> str:
    """Return the first epoch from which on the mask is close to the final one, as a mean over seeds."""
    found = []
    for _, own in rows.groupby("seed_a"):
        apart = own.loc[own["value"] < SETTLED, "x"]
        found.append(0.0 if apart.empty else float(apart.max()) + 1)
    return f"{sum(found) / len(found):.3g}"


def _by_level(rows: pd.DataFrame, line: str) -> pd.DataFrame:
    """Return the table of `over_seeds` at the mean density of each level."""
    densities = rows.groupby("level_a")["density"].transform("mean")
    return over_seeds(rows.assign(place=densities), line, "place")


def _last(rows: pd.DataFrame, line: str, look: dict[str, Style]) -> list[tuple[str, pd.DataFrame]]:
    """Return each line's rows of its last level, in the order of the legend."""
    found = []
    for name in look:
        own = rows[rows[line] == name]
        if len(own):
            found.append((name, own[own["level_a"] == own["level_a"].max()]))
    return found


def against(rows: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return the pairs that the reference belongs to, with the `other` curve."""
    first, second = rows[rows["curve_a"] == reference], rows[rows["curve_b"] == reference]
    return pd.concat([first.assign(other=first["curve_b"]), second.assign(other=second["curve_a"])], ignore_index=True)


def _where(rows: pd.DataFrame) -> str:
    return "dense" if rows["level_a"].max() == 0 else f"at {left(rows['density'].mean())} of weights left"


SHOWN: dict[str, Show] = {"overlap": _overlap, "ranks": _ranks, "connectivity": _connectivity, "early_bird": _early_bird}
"""Analysis -> its section."""

CHANCE = "by chance, at the same layer densities"


def over_seeds(rows: pd.DataFrame, line: str, x: str) -> pd.DataFrame:
    """Return a row for each line and place: mean, low and high of `value`, mean of `chance`, count; places fall."""
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
    """Draw lines with bands from the smallest to the largest, and dotted lines of chance. axis: "density", or its label.

    `found` is a table of `over_seeds`; `look` gives the order.
    """
    present = [name for name in look if (found["line"] == name).any()]
    by_chance = bool(found["chance"].notna().any())
    figure, ((axes,),), ((box,),) = canvas([HEIGHT], 1, [*present, *([CHANCE] if by_chance else [])])
    axes.set_gid("cell0")
    shown = found.assign(x=100 * found["x"]) if axis == "density" else found
    for i, name in enumerate(present):
        rows = shown[shown["line"] == name]
        band(axes, rows, "x", "n", name, look[name], i)
        if by_chance:
            axes.plot(rows["x"], rows["chance"], color=look[name]["color"], linestyle=":", linewidth=1)
    if by_chance:
        axes.plot([], [], color=NULL_LINE, linestyle=":", linewidth=1, label=CHANCE)
    if axis == "density":
        density_axis(axes, shown["x"])
    else:
        axes.set_xlabel(axis)
    entitle(axes, quantity)
    numbers = shown.rename(columns={"x": "weights_left_percent" if axis == "density" else "x", "line": "curve"})
    return Drawing(with_legend(figure), numbers.assign(quantity=quantity), (box,))


def matrix(table: pd.DataFrame, names: Sequence[str], label: str) -> Drawing:
    """Draw correlations of every pair of names as colours with numbers, from -1 to 1. table: a, b, mean, low, high."""
    grid = np.eye(len(names))
    for a, b, mean in zip(table["a"], table["b"], table["mean"], strict=True):
        i, j = names.index(a), names.index(b)
        grid[i, j] = grid[j, i] = mean
    margin = 0.2 + 0.062 * max(map(len, names))
    figure, ((axes,),), ((box,),) = canvas([TOP + BOTTOM + 0.3 * len(names)], 1, [], left=margin)
    axes.set_gid("cell0")
    shades = np.ma.masked_invalid(grid)
    axes.pcolormesh(shades, cmap="PuOr", vmin=-1, vmax=1, edgecolors=PAPER, linewidth=0.6)
    for i in range(len(names)):
        for j in range(len(names)):
            if np.isfinite(grid[i, j]):
                colour = "#fefefe" if abs(grid[i, j]) > 0.7 else "#010101"  # on a dark page too
                axes.text(j + 0.5, i + 0.5, f"{grid[i, j]:.2f}", ha="center", va="center", fontsize=7, color=colour)
    places = np.arange(len(names)) + 0.5
    crowded = max(map(len, names)) * 0.055 > (WIDTH - margin) / len(names)
    axes.set_xticks(places, names, fontsize=7, rotation=20 if crowded else 0, ha="right" if crowded else "center")
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    entitle(axes, label, margin)
    return Drawing(figure, table.assign(quantity=label), (box,))
