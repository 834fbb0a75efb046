"""The page: sections of figures, sentences and tables, as HTML from a template."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import matplotlib
import pandas as pd
import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from . import explorer, tables, text
from .analyses import Seen, seen
from .explorer import embedded, scripts
from .images import DEFAULT_FORMATS, SETTINGS, Picture
from .learning import learning
from .looks import Style, styles, swatches
from .overview import ACROSS, overview
from .panels import Panel, ordered_curves, panels
from .plate import Plate
from .plates import plates
from .tables import Claims, Table, claims_of

FIGURES = "figures"
"""The folder of a report's figures, beside the page."""
BESIDE = 12
"""Names of a legend that are not much taller than the plots."""


@dataclass(frozen=True)
class Shown:
    """A plate with its pictures, as the template shows it."""

    plate: Plate
    pictures: list[Picture]
    panel: int
    """Number of the panel that the interactive chart shows."""

    @property
    def plots(self) -> list[Markup]:
        return [plot for picture in self.pictures for plot in picture.plots(self.plate.caption)]

    @property
    def legend(self) -> dict[str, Markup]:
        """Return name -> mark of all that the drawings name."""
        return swatches([axes for picture in self.pictures for axes in picture.drawing.figure.axes])

    @property
    def across(self) -> int:
        """Return the number of plots side by side on a wide page."""
        return sum(drawing.across for drawing in self.plate.drawings.values())

    @property
    def layout(self) -> str:
        """Return the class of the drawings: a long legend is below them, in columns; beside them where there is room."""
        return "many" if len(self.legend) > BESIDE else "beside" if self.across < ACROSS else ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: sentences, figures and tables. One without a title goes on with the part before it."""

    title: str = ""
    findings: list[str] = field(default_factory=list)
    plates: list[Shown] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    folded: list[Table] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    """Title -> text to read as it is, folded."""
    closed: bool = False
    """True: folded, since figures before it show what matters most."""


def render(
    records: pd.DataFrame,
    study: Mapping[str, Any],
    *,
    stages: pd.DataFrame | None = None,
    analyses: pd.DataFrame | None = None,
    histories: pd.DataFrame | None = None,
    failed: Sequence[str] = (),
    missing: int = 0,
    formats: Sequence[str] = DEFAULT_FORMATS,
) -> tuple[str, list[Picture]]:
    """Return the page as HTML, and its pictures."""
    look = styles(ordered_curves(records))
    found = panels(records)
    with matplotlib.rc_context(SETTINGS):
        beside = overview(found, look)
        sections = [_seen(beside, 1)] if beside else []
        for panel in found:
            own = None if stages is None else panel.stages(stages)
            pictures = show(plates(panel, look, own), panel.number)
            sections.append(_section(panel, pictures, alone=len(found) == 1, closed=beside is not None))
            sections += [
                _seen(one, panel.number, "" if len(found) == 1 else panel.title) for one in seen(panel, analyses, look)
            ]
        sections += _learned(found, look, histories)
    settings = [tables.settings_table(study, records), *([] if records.empty else [tables.environment_table(records)])]
    question, rest = split(str(study.get("description") or ""))
    html = fill(
        name=str(study.get("name") or "a study"),
        lead=question,
        about=text.about(found),
        numbers=tables.numbers(found),
        failed=list(failed),
        unfinished=text.unfinished(missing),
        sections=sections,
        claims=claims_of(records, study),
        notes=[*([text.INTERVALS] if sections else []), text.caveat(study)],
        closing=Section(
            title="Settings",
            findings=[rest] if rest else [],
            tables=settings,
            texts={"The whole study, as resolved": as_yaml(study)},
        ),
        folder=FIGURES,
        formats=formats,
        data=data_of(found, look),
    )
    return html, pictures_of(sections)


def _learned(found: Sequence[Panel], look: dict[str, Style], histories: pd.DataFrame | None) -> list[Section]:
    """Return the folded section of learning curves, if there are any."""
    if histories is None:
        return []
    shown = [one for panel in found for one in show(learning(panel, look, panel.stages(histories)), panel.number)]
    return [Section(title="Learning curves", plates=shown, closed=True)] if shown else []


def split(description: str) -> tuple[str, str]:
    """Return the first sentence of a description, and the rest."""
    first, *rest = re.split(r"(?<=[.?!])\s+(?=[A-Z])", " ".join(description.split()), maxsplit=1)
    return first, " ".join(rest)


def _seen(found: Seen, number: int, where: str = "") -> Section:
    return Section(title=f"{where}{found.title}", findings=found.findings, plates=show(found.plates, number))


def show(plates: Sequence[Plate], number: int) -> list[Shown]:
    """Return the plates of the panel of that number with their pictures. Within matplotlib.rc_context(SETTINGS)."""
    return [Shown(plate, [Picture.of(name, each) for name, each in plate.drawings.items()], number) for plate in plates]


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


def _section(panel: Panel, shown: list[Shown], *, alone: bool, closed: bool) -> Section:
    gaps = [table for table in (tables.gap_table(panel, every_level=False),) if table.rows]
    folded = [tables.main_table(panel), tables.gap_table(panel, every_level=True)]
    return Section(
        title="" if alone else panel.title,
        findings=text.remarks(panel),
        plates=shown,
        tables=gaps,
        folded=[table for table in folded if table.rows],
        closed=closed,
    )
