"""The figures of a study of several nets, which show the nets side by side."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from tombola.claims.nets import family_of
from tombola.metrics.column import Column, left

from . import layers, text
from .analyses import Seen
from .figures import Cell, cell, grid
from .looks import Style, styles
from .panels import CONTROLS, Panel, panels
from .plate import Plate
from .quantities import ACCURACY, MACE
from .statistics import density_at, shared_level

FEW = 5
"""Largest number of curves in a small plot; with more, controls and changed arms have plots of their own."""
ACROSS = 3
"""Number of variants of one net side by side."""
MOST = 24
"""Largest number of small plots in a figure; a study of more is not drawn side by side."""
PLACE = "prunable tensor, input to output"


@dataclass(frozen=True)
class Spot:
    """A cell of the grid, and its curves."""

    row: int
    column: int
    name: str
    panel: Panel
    curves: list[str]


def overview(found: Sequence[Panel], look: dict[str, Style]) -> Seen | None:
    """Return accuracy (or RMSE), MACE and layers of all panels; None for one panel, and for too many."""
    merged = _by_family(found)
    if len(found) < 2:
        return None
    spots = _spots(merged)
    if len(spots) > MOST:
        return None
    if any(curve not in look for spot in spots for curve in spot.curves):
        look = styles(list(dict.fromkeys(curve for panel in merged for curve in panel.curves)))
    quantities = list(_quantities(merged))
    several = len({panel.net for panel in merged}) > 1
    return Seen(
        title="The nets side by side" if several else "The variants side by side",
        findings=[f"{panel.title}, {panel.main.label}: {text.leader(panel, panel.main)}" for panel in merged],
        plates=[*(_measured(spots, quantity, look) for quantity in quantities), *_layers(merged, look)],
    )


def measured_cells(spots: Sequence[Spot], quantity: Column) -> list[Cell]:
    """Return the cells of a quantity; of a calibration error with its null."""
    cells = []
    for spot in spots:
        records = spot.panel.records[spot.panel.records["curve"].isin(spot.curves)]
        if records[quantity.name].notna().any():
            chance = spot.panel.chance() if quantity is ACCURACY else math.nan
            cells.append(cell(records, quantity, row=spot.row, column=spot.column, title=spot.name, chance=chance))
    return cells


def layer_cells(spots: Sequence[Spot]) -> list[Cell]:
    """Return the cells of density over the place in the network, at the sparsest level that the curves share."""
    cells = []
    for spot in spots:
        table = layers.layer_table(spot.panel.records, spot.curves)
        curves = list(table["curve"].unique())
        level = shared_level(spot.panel.records, curves, "density")
        at = table[table["level"] == level]
        if at.empty or at["left"].min() == 1:
            continue
        places = {layer: place for place, layer in enumerate(at["layer"].unique(), start=1)}
        percent = {name: 100 * at[name] for name in ("mean", "low", "high")}
        points = at.assign(x=at["layer"].map(places), **percent)[["curve", "x", "layer", "mean", "low", "high", "level"]]
        title = f"{spot.name}, {left(density_at(spot.panel.records, int(level or 0)))} left"
        cells.append(Cell(row=spot.row, column=spot.column, title=title, axis="left of the tensor (%)", points=points))
    return cells


def _measured(spots: list[Spot], quantity: Column, look: dict[str, Style]) -> Plate:
    drawing = grid(measured_cells(spots, quantity), look, "density")
    null = "; grey: mean and 95% range of a perfectly calibrated model" if quantity is MACE else ""
    count = text.seeds(spots[0].panel, quantity)
    caption = f"{text.sentence(quantity.label)} over weights left, side by side{null}; {count} {text.MARKS}"
    return Plate(drawings={f"nets-{quantity.name}": drawing}, caption=caption, metric=quantity.name)


def _layers(merged: list[Panel], look: dict[str, Style]) -> list[Plate]:
    spots = [
        Spot(spot.row, spot.column, spot.name, spot.panel, spot.panel.own_masks()) for spot in _spots(merged, whole=True)
    ]
    cells = layer_cells(spots)
    if not cells:
        return []
    caption = (
        "Density of each prunable tensor over its place in the network, at the sparsest level that the curves have in "
        f"common, for the curves that find their own mask; a tensor at 0 is empty. {text.MARKS}"
    )
    return [Plate(drawings={"nets-layers": grid(cells, look, PLACE)}, caption=caption)]


def _spots(merged: list[Panel], whole: bool = False) -> list[Spot]:
    """Return a column for each net and a row for each variant and group of curves; variants of one net fill a grid."""
    nets = list(dict.fromkeys(panel.net for panel in merged))
    several = len({panel.records["data"].iloc[0] for panel in merged}) > 1
    rows: dict[tuple[str, str], int] = {}
    found = []
    for panel in merged:
        for name, curves in ({"": panel.curves} if whole else _groups(panel)).items():
            row, column = rows.setdefault((panel.variant, name), len(rows)), nets.index(panel.net)
            if len(nets) == 1 and not name:
                row, column = divmod(row, ACROSS)
            net = panel.net if several else str(panel.records["model"].iloc[0])
            words = [net if len(nets) > 1 else "", panel.setting, name]
            found.append(Spot(row, column, ", ".join(filter(None, words)) or net, panel, curves))
    return found


def _groups(panel: Panel) -> dict[str, list[str]]:
    """Group curves into rows: controls beside the tickets that they control, changed arms in a row of their own."""
    if len(panel.curves) <= FEW:
        return {"": panel.curves}
    firsts = panel.records.drop_duplicates("curve").set_index("curve")
    if firsts["arm"].isin([*CONTROLS, "equal_budget"]).any() and firsts["chain"].nunique() > 1:
        chains = {"bayesian": "Bayesian tickets", "deterministic": "deterministic tickets"}
        return {name: own for chain, name in chains.items() if (own := _where(panel, firsts["chain"] == chain))}
    changed = _where(panel, firsts["changes"] != "{}")
    plain = [curve for curve in panel.curves if curve not in changed and not _repeats(panel, curve)]
    if not changed or panel.reference in changed:
        return {"": panel.curves}
    return {"": plain, "changed": [panel.reference, *changed]}


def _where(panel: Panel, rows: pd.Series) -> list[str]:
    return [curve for curve in panel.curves if rows[curve]]


def _repeats(panel: Panel, curve: str) -> bool:
    """Find the reference by another name: an arm that sets a value which the study sets already."""
    keys = panel.records.groupby("curve")["key"].agg(set)
    return curve != panel.reference and keys[curve] == keys[panel.reference]


def _quantities(found: Sequence[Panel]) -> Iterator[Column]:
    yield found[0].main
    if any(panel.records[MACE.name].notna().any() for panel in found):
        yield MACE


def _by_family(found: Sequence[Panel]) -> list[Panel]:
    """Merge the sizes of one family into one panel, whose curves name the size."""
    if not found:
        return []
    records = pd.concat([panel.records for panel in found], ignore_index=True)
    family = records["model"].map(family_of)
    sizes = records.groupby([family, records["data"], records["variant"]])["model"].transform("nunique")
    if (sizes == 1).all():
        return list(found)
    curve = records["curve"].where(sizes == 1, records["model"] + ", " + records["curve"])
    return panels(records.assign(curve=curve, model=family.where(sizes > 1, records["model"])))
