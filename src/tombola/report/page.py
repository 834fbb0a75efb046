"""The page: sections from records, HTML from a template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import matplotlib
import pandas as pd
import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from tombola.report import captions, figures, images, tables, words
from tombola.report.panels import Panel, ordered_curves, panels
from tombola.report.quantities import ECE, MACE, NLL, Quantity
from tombola.report.statistics import levels, shared_level
from tombola.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class Plate:
    """One numbered figure of the page: one or two drawings and their caption."""

    drawings: dict[str, Figure]  # by file name
    caption: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A panel as the template shows it."""

    title: str
    findings: list[str]
    plates: list[tuple[list[Markup], str]]
    tables: list[Table]
    all_gaps: Table


def render(
    records: pd.DataFrame, study: Mapping[str, Any], *, failed: Sequence[str], missing: int
) -> tuple[str, dict[str, bytes]]:
    """The page as HTML, and its figures as PNG by name."""
    look = figures.styles(ordered_curves(records))
    pictures: dict[str, bytes] = {}
    sections = []
    found = panels(records)
    with matplotlib.rc_context(images.SETTINGS):
        for panel in found:
            plates = _plates(panel, look)
            sections.append(_section(panel, plates))
            for plate in plates:
                pictures |= {name: images.png(figure) for name, figure in plate.drawings.items()}
    html = _template().render(
        name=str(study.get("name") or "a study"),
        description=str(study.get("description") or ""),
        lead=words.lead(found),
        failed=list(failed),
        unfinished=words.unfinished(missing),
        sections=sections,
        intervals=words.INTERVALS,
        caveat=words.caveat(study),
        settings=tables.settings_table(study, records),
        environment=None if records.empty else tables.environment_table(records),
        yaml=yaml.safe_dump(dict(study), sort_keys=False, allow_unicode=True),
    )
    return html, pictures


def _plates(panel: Panel, look: dict[str, figures.Style]) -> list[Plate]:
    look = {curve: look[curve] for curve in panel.curves}
    plates = []
    for quantity in (panel.main, NLL):
        if panel.records[quantity.column].notna().any():
            plates.append(_curve_plate(panel, quantity, look))
    shown = [quantity for quantity in (ECE, MACE) if panel.records[quantity.column].notna().any()]
    if shown:
        drawings = {f"{panel.number}-{each.column}": figures.calibration(panel.records, each, look) for each in shown}
        plates.append(Plate(drawings=drawings, caption=captions.calibration(panel, shown)))
    return [*plates, *_layer_plate(panel, look)]


def _curve_plate(panel: Panel, quantity: Quantity, look: dict[str, figures.Style]) -> Plate:
    name, closer = f"{panel.number}-{quantity.column}", panel.uncontrolled()
    if len(closer) < 2 or len(closer) == len(panel.curves):
        drawings = {name: figures.over_density(panel.records, quantity, look)}
        return Plate(drawings=drawings, caption=captions.over_density(panel, quantity))
    # shuffles fall so far that they hide how the tickets differ
    records = panel.records[panel.records["curve"].isin(closer)]
    few = {curve: look[curve] for curve in closer}
    drawings = {
        name: figures.over_density(panel.records, quantity, look, width=figures.NARROW),
        f"{name}-without-controls": figures.over_density(records, quantity, few, width=figures.NARROW),
    }
    return Plate(drawings=drawings, caption=captions.over_density(panel, quantity, twice=True))


def _layer_plate(panel: Panel, look: dict[str, figures.Style]) -> list[Plate]:
    nothing = panel.records["layer_density"].fillna("").isin(["", "{}"])
    recorded = panel.records[~nothing].assign(known=1.0)
    curves = [curve for curve in panel.own_masks() if levels(recorded, curve, "known")]
    level = shared_level(recorded, curves, "known")
    if level is None:
        return []
    found = figures.layer_densities(recorded, curves, level)
    caption = captions.per_layer(panel, found, level)
    return [Plate(drawings={f"{panel.number}-layers": figures.per_layer(found, look)}, caption=caption)]


def _section(panel: Panel, plates: list[Plate]) -> Section:
    drawn = [
        ([images.svg(figure, name=name, label=plate.caption) for name, figure in plate.drawings.items()], plate.caption)
        for plate in plates
    ]
    shown = [
        tables.main_table(panel),
        tables.gap_table(panel, every_level=False),
        tables.drift_table(panel),
        tables.time_table(panel),
    ]
    return Section(
        title=panel.title,
        findings=words.findings(panel),
        plates=drawn,
        tables=[table for table in shown if table.rows],
        all_gaps=tables.gap_table(panel, every_level=True),
    )


def _template() -> Any:
    folder = resources.files("tombola.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals["css"] = Markup(folder.joinpath("page.css").read_text())
    return environment.from_string(folder.joinpath("page.html").read_text())
