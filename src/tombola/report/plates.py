"""The numbered figures of a panel, each with its caption."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from tombola.metrics.column import Column

from . import figures, layers, text
from .figures import WIDE, Drawing, Style
from .panels import Panel
from .quantities import DRIFT, ECE, MACE, NLL, duration, listed
from .statistics import shared_level
from .tables import Table


@dataclass(frozen=True, kw_only=True)
class Plate:
    """One numbered figure: drawings by name, and their caption."""

    drawings: dict[str, Drawing]
    caption: str
    explorer: str = ""
    """Interactive chart in its place, "curves" or "layers"; empty: none."""
    metric: str = ""
    """Column that the interactive chart shows first, or that the figure's link chooses."""


def plates(panel: Panel, look: dict[str, Style], stages: pd.DataFrame | None = None) -> list[Plate]:
    """Return the figures of a panel for which it has numbers. `stages`: the time of each stage of this panel."""
    look = {curve: look[curve] for curve in panel.curves}
    return [*_measured(panel, look), *_layers(panel, look), *_drift(panel, look), *_times(panel, stages)]


def plates_of_measurements(panel: Panel, look: dict[str, Style]) -> list[Plate]:
    """Return the figures of curves alone: metrics, and the drift of sigma."""
    look = {curve: look[curve] for curve in panel.curves}
    return [*_measured(panel, look), *_drift(panel, look)]


def _measured(panel: Panel, look: dict[str, Style]) -> list[Plate]:
    found = []
    for quantity in (panel.main, NLL):
        if panel.records[quantity.name].notna().any():
            found.append(_curves(panel, quantity, look))
    shown = [quantity for quantity in (ECE, MACE) if panel.records[quantity.name].notna().any()]
    if shown:
        drawings = {
            f"{panel.number}-{each.name}": figures.over_density(panel.records, each, look, width=figures.NARROW, null=True)
            for each in shown
        }
        found.append(Plate(drawings=drawings, caption=text.calibration(panel, shown), metric=shown[0].name))
    return found


def _curves(panel: Panel, quantity: Column, look: dict[str, Style]) -> Plate:
    name, closer = f"{panel.number}-{quantity.name}", panel.uncontrolled()
    twice = 2 <= len(closer) < len(panel.curves)
    width = figures.NARROW if twice else WIDE
    drawings = {name: figures.over_density(panel.records, quantity, look, width=width)}
    if twice:  # shuffles fall so far that they hide how the tickets differ
        records = panel.records[panel.records["curve"].isin(closer)]
        few = {curve: look[curve] for curve in closer}
        drawings[f"{name}-without-controls"] = figures.over_density(records, quantity, few, width=width)
    caption = text.over_density(panel, quantity, twice=twice)
    return Plate(
        drawings=drawings, caption=caption, explorer="curves" if quantity is panel.main else "", metric=quantity.name
    )


def _layers(panel: Panel, look: dict[str, Style]) -> list[Plate]:
    found = []
    table = layers.layer_table(panel.records, panel.own_masks())
    curves = list(table["curve"].unique())
    level = shared_level(table, curves, "mean")
    rows = table[table["level"] == level]
    if level is not None and rows["left"].min() < 1:  # dense: nothing to see
        caption = text.layer_dots(panel, rows, level)
        found.append(Plate(drawings={f"{panel.number}-layers": layers.dots(rows, look)}, caption=caption))
    if table["level"].nunique() > 1:
        least = layers.least_density(table)
        arms = {panel.arm(curve): curve for curve in reversed(curves)}
        chosen = list(dict.fromkeys([curves[0], arms.get("deterministic", curves[0])]))
        drawings = {f"{panel.number}-heat-{panel.arm(curve)}": layers.heat_map(table, curve, least) for curve in chosen}
        found.append(Plate(drawings=drawings, caption=text.heat(table, chosen), explorer="layers"))
    return found


def _drift(panel: Panel, look: dict[str, Style]) -> list[Plate]:
    drawings = {}
    for quantity in DRIFT:
        known = panel.records[panel.records[quantity.name].notna()]
        few = {curve: look[curve] for curve in panel.curves if (known["curve"] == curve).any()}
        if few:
            drawings[f"{panel.number}-{quantity.name.replace('_', '-')}"] = figures.over_density(
                known, quantity, few, width=figures.NARROW
            )
    return [Plate(drawings=drawings, caption=text.drift(panel), metric=DRIFT[0].name)] if drawings else []


def _times(panel: Panel, stages: pd.DataFrame | None) -> list[Plate]:
    if stages is None or stages.empty:
        return []
    table = spent(stages, panel.curves)
    return [Plate(drawings={f"{panel.number}-time": bars(table)}, caption=caption(table))]


KINDS = ("train", "prune", "evaluate")  # other stages are quick, except for analyses
OTHER = "other"
GREYS = {"train": "0.35", "prune": "0.6", "evaluate": "0.8", OTHER: "0.93"}  # colours are for curves
UNITS = {"hours": 3600.0, "minutes": 60.0, "seconds": 1.0}


def spent(stages: pd.DataFrame, curves: Sequence[str]) -> pd.DataFrame:
    """Return seconds by curve (rows, in order) and kind (`KINDS` and "other"), without curves that have no stage."""
    kinds = stages["kind"].where(stages["kind"].isin(KINDS), OTHER)
    table = stages.groupby(["curve", kinds])["seconds"].sum().unstack(fill_value=0)
    present = [curve for curve in curves if curve in table.index]
    return table.reindex(index=present, columns=[*KINDS, OTHER], fill_value=0.0)


def bars(table: pd.DataFrame) -> Drawing:
    """Draw a bar for each curve, the first one on top, whose parts are the kinds of stages."""
    unit = next((name for name, size in UNITS.items() if table.to_numpy().sum(axis=1).max() >= 2 * size), "seconds")
    figure = Figure(figsize=(WIDE, 1.15 + 0.27 * len(table)), layout="constrained")
    axes = figure.add_subplot()
    before = pd.Series(0.0, index=table.index)
    for kind in table.columns:
        width = table[kind] / UNITS[unit]
        axes.barh(range(len(table)), width, left=before, color=GREYS[kind], label=kind, height=0.65, edgecolor="0.3", lw=0.6)
        before = before + width
    axes.set_yticks(range(len(table)), list(table.index))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"time, all seeds and levels ({unit})")
    figure.legend(loc="outside lower center", ncols=len(table.columns), fontsize=8.5)
    numbers = (table / UNITS[unit]).rename_axis(index="curve").reset_index().melt("curve", var_name="kind", value_name=unit)
    return Drawing(figure, numbers)


def caption(table: pd.DataFrame) -> str:
    """Caption the times: the total, and the share of each kind."""
    total = table.to_numpy().sum()
    shares = (table.sum() / total).sort_values(ascending=False) if total else table.sum()
    named = listed([f"{100 * share:.0f}% {kind}" for kind, share in shares.items() if share >= 0.005])
    return (
        f"Where the time went, by the curve's stages: {duration(total)} in all; {named}. A stage that several curves share "
        "counts once, for the first of them; stages that an earlier study had finished count as if they were run here."
    )


def time_table(stages: pd.DataFrame, table: pd.DataFrame) -> Table:
    """Return the times as a table, with the number of trainings and the mean time of one."""
    trained = stages[stages["kind"] == "train"].groupby("curve")["seconds"]
    counts, means = trained.count(), trained.mean()
    rows = [
        [curve, str(counts.get(curve, 0)), duration(means.get(curve, float("nan")))]
        + [duration(seconds) for seconds in (*parts, sum(parts))]
        for curve, parts in zip(table.index, table.to_numpy().tolist(), strict=True)
    ]
    parts = table.sum().tolist()
    every = stages.loc[stages["kind"] == "train", "seconds"]
    rows.append(["all", str(len(every)), duration(every.mean()), *map(duration, (*parts, sum(parts)))])
    return Table(
        title="Time by kind of stage, all seeds and levels",
        head=["curve", "trainings", "one training", *table.columns, "sum"],
        rows=rows,
    )
