"""The numbered figures of a panel, each with its caption."""

from dataclasses import dataclass

import pandas as pd

from tombola.report import captions, figures, layers, times
from tombola.report.figures import Drawing, Style
from tombola.report.panels import Panel
from tombola.report.quantities import DRIFT, ECE, MACE, NLL, Quantity
from tombola.report.statistics import shared_level

HEATED = 2  # heat maps that are drawn as files: the reference, and the deterministic curve beside it


@dataclass(frozen=True, kw_only=True)
class Plate:
    """One numbered figure: drawings by name, and their caption."""

    drawings: dict[str, Drawing]
    caption: str
    explorer: str = ""
    """What the browser draws in its place, "curves" or "layers"; empty: nothing."""
    metric: str = ""
    """The column that the interactive chart shows at first, or when the figure asks for it."""


def plates(panel: Panel, look: dict[str, Style], stages: pd.DataFrame | None = None) -> list[Plate]:
    """All figures of a panel, those whose numbers there are. `stages`: the time of each stage of this panel."""
    look = {curve: look[curve] for curve in panel.curves}
    return [*_measured(panel, look), *_layers(panel, look), *_drift(panel, look), *_times(panel, stages)]


def plates_of_measurements(panel: Panel, look: dict[str, Style]) -> list[Plate]:
    """The figures of curves alone: what was measured, and the drift of sigma."""
    look = {curve: look[curve] for curve in panel.curves}
    return [*_measured(panel, look), *_drift(panel, look)]


def _measured(panel: Panel, look: dict[str, Style]) -> list[Plate]:
    found = []
    for quantity in (panel.main, NLL):
        if panel.records[quantity.column].notna().any():
            found.append(_curves(panel, quantity, look))
    shown = [quantity for quantity in (ECE, MACE) if panel.records[quantity.column].notna().any()]
    if shown:
        drawings = {f"{panel.number}-{each.column}": figures.calibration(panel.records, each, look) for each in shown}
        found.append(Plate(drawings=drawings, caption=captions.calibration(panel, shown), metric=shown[0].column))
    return found


def _curves(panel: Panel, quantity: Quantity, look: dict[str, Style]) -> Plate:
    name, closer = f"{panel.number}-{quantity.column}", panel.uncontrolled()
    explorer = "curves" if quantity is panel.main else ""
    if len(closer) < 2 or len(closer) == len(panel.curves):
        drawings = {name: figures.over_density(panel.records, quantity, look)}
        caption = captions.over_density(panel, quantity)
        return Plate(drawings=drawings, caption=caption, explorer=explorer, metric=quantity.column)
    # shuffles fall so far that they hide how the tickets differ
    records = panel.records[panel.records["curve"].isin(closer)]
    few = {curve: look[curve] for curve in closer}
    drawings = {
        name: figures.over_density(panel.records, quantity, look, width=figures.NARROW),
        f"{name}-without-controls": figures.over_density(records, quantity, few, width=figures.NARROW),
    }
    caption = captions.over_density(panel, quantity, twice=True)
    return Plate(drawings=drawings, caption=caption, explorer=explorer, metric=quantity.column)


def _layers(panel: Panel, look: dict[str, Style]) -> list[Plate]:
    found = []
    table = layers.layer_table(panel.records, panel.own_masks())
    curves = list(table["curve"].unique())
    recorded = panel.records[panel.records["curve"].isin(curves)].assign(known=1.0)
    recorded = recorded[~recorded["layer_density"].fillna("").isin(["", "{}"])]
    level = shared_level(recorded, curves, "known")
    if level is not None and recorded.loc[recorded["level"] == level, "density"].min() < 1:  # dense: nothing to see
        rows = table[table["level"] == level]
        caption = captions.layer_dots(panel, rows, level)
        found.append(Plate(drawings={f"{panel.number}-layers": layers.dots(rows, look)}, caption=caption))
    if table["level"].nunique() > 1:
        least = layers.least_density(table)
        arms = {panel.arm(curve): curve for curve in reversed(curves)}
        chosen = list(dict.fromkeys([curves[0], arms.get("deterministic", curves[0])]))[:HEATED]
        drawings = {f"{panel.number}-heat-{panel.arm(curve)}": layers.heat_map(table, curve, least) for curve in chosen}
        found.append(Plate(drawings=drawings, caption=captions.heat(table, chosen), explorer="layers"))
    return found


def _drift(panel: Panel, look: dict[str, Style]) -> list[Plate]:
    drawings = {}
    for quantity in DRIFT:
        known = panel.records[panel.records[quantity.column].notna()]
        few = {curve: look[curve] for curve in panel.curves if (known["curve"] == curve).any()}
        if few:
            drawings[f"{panel.number}-{quantity.column.replace('_', '-')}"] = figures.over_density(
                known, quantity, few, width=figures.NARROW
            )
    return [Plate(drawings=drawings, caption=captions.drift(panel), metric=DRIFT[0].column)] if drawings else []


def _times(panel: Panel, stages: pd.DataFrame | None) -> list[Plate]:
    if stages is None or stages.empty:
        return []
    table = times.spent(stages, panel.curves)
    return [Plate(drawings={f"{panel.number}-time": times.bars(table)}, caption=times.caption(table))]
