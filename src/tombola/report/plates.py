"""The numbered figures of a panel, each with its caption."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from tombola.metrics.column import left, listed

from . import layers, text
from .figures import BOTTOM, HEIGHT, TOP, Drawing, canvas, cell, entitle, grid, plotted, with_legend
from .looks import INK, SHADES, Style
from .measures import measures
from .panels import Panel
from .plate import Plate
from .quantities import DRIFT, ECE, MACE, NLL, duration
from .statistics import density_at, shared_level
from .tables import cost_table

TALL = 3.0  # inches: height of the first figure's plots


def plates(panel: Panel, look: dict[str, Style], stages: pd.DataFrame | None = None) -> list[Plate]:
    """Return the figures of a panel for which it has numbers. `stages`: the time of each stage of this panel."""
    look = {curve: look[curve] for curve in panel.curves}
    return [*plates_of_measurements(panel, look), *_layers(panel, look), *_times(panel, stages)]


def plates_of_measurements(panel: Panel, look: dict[str, Style]) -> list[Plate]:
    """Return the figures of curves alone: metrics, operations, measures, and the drift of sigma."""
    beside = [*_operations(panel, look), *_quality(panel, look), *measures(panel, look), *_drift(panel, look)]
    return [headline(panel, look), *beside]


def headline(panel: Panel, look: dict[str, Style]) -> Plate:
    """Return the main quantity over weights left: a closer look without controls, then all curves; accuracy with chance."""
    quantity, name = panel.main, f"{panel.number}-{panel.main.name}"
    closer, chance = panel.uncontrolled(), panel.chance()
    twice = 2 <= len(closer) < len(panel.curves)
    cells = [cell(panel.records, quantity, column=int(twice), band=True, chance=chance, own_scale=True)]
    if twice:  # shuffles fall so far that they hide how the tickets differ
        few = panel.records[panel.records["curve"].isin(closer)]
        near = cell(few, quantity, title=f"{quantity.axis_label}, a closer look", band=True, chance=chance, own_scale=True)
        shade = (float(near.points["low"].min()), float(near.points["high"].max()))
        cells = [near, replace(cells[0], title="all curves; shaded: the closer look", shade=shade)]
    drawing = replace(grid(cells, look, "density", height=TALL), numbers=plotted(panel.records, quantity))
    found = panel.summary(quantity.name).set_index(["curve", "level"])["mean"]
    level = shared_level(panel.records, panel.curves, quantity.name)
    notes = {} if level is None else {curve: quantity.show(found[curve, level]) for curve in panel.curves}
    return Plate(
        title=text.sentence(quantity.label),
        drawings={name: drawing},
        caption=text.over_density(panel, quantity, twice=twice),
        metric=quantity.name,
        notes=notes,
        heading="" if level is None else f"at {left(density_at(panel.records, level))} left",
    )


def _operations(panel: Panel, look: dict[str, Style]) -> list[Plate]:
    """Return the main quantity over operations left, without controls, where the records have them."""
    if "flops_left" not in panel.records or not (panel.records["flops_left"] < 1).any():
        return []
    curves = panel.uncontrolled() or panel.curves
    known = panel.records[panel.records["flops_left"].notna() & panel.records["curve"].isin(curves)]
    over = known.assign(density=known["flops_left"])  # what the x axis shows
    drawing = grid([cell(over, panel.main, band=True, chance=panel.chance())], look, "operations", height=TALL)
    return [
        Plate(
            title=f"{text.sentence(panel.main.label)} over operations",
            drawings={f"{panel.number}-operations": drawing},
            caption=text.over_operations(panel),
            metric=panel.main.name,
        )
    ]


def _quality(panel: Panel, look: dict[str, Style]) -> list[Plate]:
    """Return NLL and calibration errors beside each other, without controls where there are other curves."""
    shown = [quantity for quantity in (NLL, ECE, MACE) if panel.records[quantity.name].notna().any()]
    if not shown:
        return []
    closer = panel.uncontrolled()
    fewer = 2 <= len(closer) < len(panel.curves)
    records = panel.records[panel.records["curve"].isin(closer)] if fewer else panel.records
    cells = [cell(records, quantity, column=i, band=True) for i, quantity in enumerate(shown)]
    return [
        Plate(
            title="Likelihood and calibration" if len(shown) > 1 else text.sentence(shown[0].label),
            drawings={f"{panel.number}-quality": grid(cells, look, "density")},
            caption=text.quality(panel, shown, fewer),
            metric=shown[-1].name,
        )
    ]


def _layers(panel: Panel, look: dict[str, Style]) -> list[Plate]:
    table = layers.layer_table(panel.records, panel.own_masks())
    curves = list(table["curve"].unique())
    if not curves or table["left"].min() == 1:  # dense: nothing to see
        return []
    level = shared_level(table, curves, "mean")
    level = level if level and table.loc[table["level"] == level, "left"].min() < 1 else None
    arms = {panel.arm(curve): curve for curve in reversed(curves)}
    mapped = list(dict.fromkeys([curves[0], arms.get("deterministic", curves[0])]))
    drawing = layers.profile(table, level, mapped, look)
    caption = text.layers(panel, table, level, mapped)
    return [Plate(title="Layers", drawings={f"{panel.number}-layers": drawing}, caption=caption)]


def _drift(panel: Panel, look: dict[str, Style]) -> list[Plate]:
    known = panel.records[panel.records[[quantity.name for quantity in DRIFT]].notna().any(axis=1)]
    shown = [quantity for quantity in DRIFT if known[quantity.name].notna().any()]
    if not shown:
        return []
    cells = [cell(known, quantity, column=i, band=True) for i, quantity in enumerate(shown)]
    drawings = {f"{panel.number}-drift": grid(cells, look, "density")}
    return [Plate(title="Drift of sigma", drawings=drawings, caption=text.drift(panel), metric=DRIFT[0].name)]


def _times(panel: Panel, stages: pd.DataFrame | None) -> list[Plate]:
    if stages is None or stages.empty:
        return []
    table = spent(stages, panel.curves)
    costs = cost_table(panel)
    drawings = {f"{panel.number}-time": bars(table)}
    return [Plate(title="Cost", drawings=drawings, caption=caption(table), table=costs if costs.rows else None)]


KINDS = ("train", "prune", "evaluate")  # other stages are quick, except for analyses
OTHER = "other"
UNITS = {"hours": 3600.0, "minutes": 60.0, "seconds": 1.0}


def spent(stages: pd.DataFrame, curves: Sequence[str]) -> pd.DataFrame:
    """Return seconds by curve (rows, in order) and kind (`KINDS` and "other"), without curves that have no stage."""
    kinds = stages["kind"].where(stages["kind"].isin(KINDS), OTHER)
    table = stages.groupby(["curve", kinds])["seconds"].sum().unstack(fill_value=0)
    present = [curve for curve in curves if curve in table.index]
    return table.reindex(index=present, columns=[*KINDS, OTHER], fill_value=0.0)


def bars(table: pd.DataFrame) -> Drawing:
    """Draw a bar for each curve, of the kinds of stages one after another, with their sum at its end."""
    sums = table.sum(axis=1)
    unit = next((unit for unit, seconds in UNITS.items() if sums.max() >= 2 * seconds), "seconds")
    lines = [textwrap.wrap(curve, 30) for curve in table.index]
    margin = 0.2 + 0.062 * max(len(line) for own in lines for line in own)
    height = max(HEIGHT - 0.6, TOP + BOTTOM + (0.11 + 0.13 * max(map(len, lines))) * len(table))
    figure, ((axes,),), ((box,),) = canvas([height], 1, list(table.columns), left=margin)
    axes.set_gid("cell0")
    before = pd.Series(0.0, index=table.index)
    for kind, shade in zip(table.columns, SHADES, strict=True):
        width = table[kind] / UNITS[unit]
        axes.barh(range(len(table)), width, left=before, color=shade, label=kind, height=0.65)
        before = before + width
    for i, (total, words) in enumerate(zip(before, map(duration, sums), strict=True)):
        axes.annotate(words, (total, i), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7.5, color=INK)
    axes.set_yticks(range(len(table)), ["\n".join(own) for own in lines])
    axes.set_xlim(0, 1.35 * (before.max() or 1.0))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    entitle(axes, f"time, all seeds and levels ({unit})", margin)
    numbers = (table / UNITS[unit]).rename_axis(index="curve").reset_index().melt("curve", var_name="kind", value_name=unit)
    return Drawing(with_legend(figure), numbers, (box,))


def caption(table: pd.DataFrame) -> str:
    """Caption the times: the total, and the share of each kind."""
    total = table.to_numpy().sum()
    shares = (table.sum() / total).sort_values(ascending=False) if total else table.sum()
    named = listed([f"{100 * share:.0f}% {kind}" for kind, share in shares.items() if share >= 0.005])
    return (
        f"Where the time went, by the curve's stages: {duration(total)} in all; {named}. A stage that several curves share "
        "counts once, for the first of them; stages that an earlier study had finished count as if they were run here."
    )
