"""The page: sections of figures, sentences and tables, as HTML from a template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import matplotlib
import pandas as pd
import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from . import explorer, figures, tables, text
from .analyses import Seen, seen
from .explorer import embedded, scripts
from .figures import Style
from .images import DEFAULT_FORMATS, SETTINGS, Picture
from .overview import overview
from .panels import Panel, ordered_curves, panels
from .plates import Plate, plates, spent, time_table
from .tables import Claims, Table, claims_of

FIGURES = "figures"
"""The folder of a report's figures, beside the page."""


@dataclass(frozen=True)
class Shown:
    """A plate with its pictures, as the template shows it."""

    plate: Plate
    pictures: list[Picture]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A panel as the template shows it."""

    number: int
    title: str
    findings: list[str]
    plates: list[Shown]
    tables: list[Table] = field(default_factory=list)
    all_gaps: Table = field(default_factory=lambda: Table(title="", head=[], rows=[]))
    wide: bool = False
    """True if its figures take the whole width."""


@dataclass(frozen=True, kw_only=True)
class Closing:
    """A part of the page's end: tables, or a text to read as it is."""

    title: str
    tables: list[Table] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


def render(
    records: pd.DataFrame,
    study: Mapping[str, Any],
    *,
    stages: pd.DataFrame | None = None,
    analyses: pd.DataFrame | None = None,
    failed: Sequence[str] = (),
    missing: int = 0,
    formats: Sequence[str] = DEFAULT_FORMATS,
) -> tuple[str, list[Picture]]:
    """Return the page as HTML, and its pictures."""
    look = figures.styles(ordered_curves(records))
    found = panels(records)
    sections: list[Section] = []
    with matplotlib.rc_context(SETTINGS):
        if side_by_side := overview(found, look):
            sections.append(_seen(0, side_by_side.title, side_by_side, wide=True))
        for panel in found:
            own = None if stages is None else panel.stages(stages)
            sections.append(_section(panel, show(plates(panel, look, own)), own))
            sections += [_seen(panel.number, f"{panel.title}: {one.title}", one) for one in seen(panel, analyses, look)]
    closing = [
        Closing(
            title="Settings",
            tables=[tables.settings_table(study, records)],
            texts={"The whole study, as resolved": as_yaml(study)},
        )
    ]
    if not records.empty:
        closing.append(Closing(title="Environment", tables=[tables.environment_table(records)]))
    html = fill(
        name=str(study.get("name") or "a study"),
        description=str(study.get("description") or ""),
        lead=text.lead(found),
        failed=list(failed),
        unfinished=text.unfinished(missing),
        sections=sections,
        claims=claims_of(records),
        notes=[*([text.INTERVALS] if sections else []), text.caveat(study)],
        closing=closing,
        folder=FIGURES,
        formats=formats,
        data=data_of(found, look),
    )
    return html, pictures_of(sections)


def _seen(number: int, title: str, found: Seen, *, wide: bool = False) -> Section:
    return Section(number=number, title=title, findings=found.findings, plates=show(found.plates), wide=wide)


def show(plates: list[Plate]) -> list[Shown]:
    """Return the plates with their pictures laid out. Within matplotlib.rc_context(SETTINGS)."""
    return [Shown(plate, [Picture.of(name, each) for name, each in plate.drawings.items()]) for plate in plates]


def pictures_of(sections: list[Section]) -> list[Picture]:
    """Return all pictures of the page."""
    return [picture for section in sections for shown in section.plates for picture in shown.pictures]


def data_of(panels: list[Panel], look: dict[str, Style]) -> dict[str, Any]:
    """Return the data for the page's script."""
    return {"panels": {str(panel.number): explorer.panel_data(panel, look) for panel in panels}}


def fill(*, data: dict[str, Any], claims: Claims | None = None, **context: Any) -> str:
    """Return the template filled with these values."""
    folder = resources.files("tombola.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals["css"] = Markup(folder.joinpath("page.css").read_text())
    template = environment.from_string(folder.joinpath("page.html").read_text())
    return template.render(**context, claims=claims, data=embedded(data), scripts=scripts())


def as_yaml(study: Mapping[str, Any]) -> str:
    """Return the study as YAML."""
    return yaml.safe_dump(dict(study), sort_keys=False, allow_unicode=True)


def _section(panel: Panel, shown: list[Shown], stages: pd.DataFrame | None) -> Section:
    found = [tables.main_table(panel), tables.gap_table(panel, every_level=False), tables.drift_table(panel)]
    found.append(tables.cost_table(panel))
    if stages is not None and not stages.empty:
        found.append(time_table(stages, spent(stages, panel.curves)))
    return Section(
        number=panel.number,
        title=panel.title,
        findings=text.findings(panel),
        plates=shown,
        tables=[table for table in found if table.rows],
        all_gaps=tables.gap_table(panel, every_level=True),
    )
