"""Matplotlib figures as bytes: inline SVG for the page, files for a folder. Equal figures give equal bytes."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from .figures import WIDTH, Drawing
from .looks import AXIS, GRID, INK, in_variables

# for matplotlib.rc_context: around the drawing and around the saving
SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that every machine draws the same
    "font.size": 9,
    "text.parse_math": False,  # names may hold a dollar sign
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": AXIS,
    "axes.labelcolor": AXIS,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelpad": 3,
    "axes.titley": 1.0,  # else a seventh of each drawing looks for what could be in the titles' way
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": AXIS,
    "xtick.labelsize": 8,
    "ytick.color": AXIS,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "lines.markeredgewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 2,
    "legend.columnspacing": 1.2,
    "svg.fonttype": "none",  # text stays text: to read aloud, to search, and in the page's own font
    "svg.hashsalt": "tombola",
    "pdf.fonttype": 42,  # text that can be selected, as journals ask
}
HOW: dict[str, dict[str, Any]] = {  # without dates and versions, so that equal figures give equal bytes
    # the lightest compression: an eighth larger than the default, for a sixth of the time that a PNG takes
    "png": {"dpi": 200, "metadata": {"Software": None}, "pil_kwargs": {"compress_level": 1}},
    "svg": {"metadata": {"Date": None, "Creator": None, "Format": None, "Type": None}},
    "pdf": {"metadata": {"Creator": None, "Producer": None, "CreationDate": None}},
}
FORMATS = tuple(HOW)
"""Formats of a figure's files; the numbers are written as CSV beside them."""
DEFAULT_FORMATS = ("png",)
"""A PDF embeds fonts, which takes longer than all else; the page holds the SVG anyway."""
POINTS = 72  # in an inch
_SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


@dataclass(frozen=True)
class Picture:
    """A drawing with its name and the page's SVG, without the legend (a seventh of its time): the page writes it as text."""

    name: str
    drawing: Drawing
    svg: bytes

    @classmethod
    def of(cls, name: str, drawing: Drawing) -> "Picture":
        """Write the page's SVG. Call it within matplotlib.rc_context(SETTINGS)."""
        for legend in drawing.figure.legends:
            legend.set_visible(False)
        svg = _saved(drawing.figure, "svg")
        for legend in drawing.figure.legends:
            legend.set_visible(True)
        return cls(name, drawing, svg)

    def files(self, formats: Sequence[str] = DEFAULT_FORMATS) -> dict[str, bytes]:
        """Return the figure in these formats, and its numbers as CSV, by file name."""
        with matplotlib.rc_context(SETTINGS):
            figures = {kind: _saved(self.drawing.figure, kind) for kind in formats}
        numbers = self.drawing.numbers.to_csv(index=False, lineterminator="\n").encode()
        return {f"{self.name}.{kind}": content for kind, content in {**figures, "csv": numbers}.items()}

    def plots(self, label: str) -> list[Markup]:
        """Return each plot as an SVG element that fills its container.

        Ids get the name as prefix, so that a page repeats none. Plots may refer to marks that the first of them defines.
        """
        root = ElementTree.fromstring(self.svg)
        (figure,) = (child for child in root if child.get("id") == "figure_1")
        shared = [child for child in root if child.tag == f"{{{_SVG}}}defs"]
        found = []
        for i, box in enumerate(self.drawing.boxes):
            frame = ElementTree.Element(f"{{{_SVG}}}svg", {"viewBox": " ".join(f"{POINTS * inch:g}" for inch in box)})
            frame.extend(shared if i == 0 else [])
            frame.extend(child for child in figure if re.fullmatch(rf"cell{i}(-\w+)?", child.get("id", "")))
            text = ElementTree.tostring(frame, encoding="unicode")
            text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", in_variables(text))
            place = f'style="--column: {1 + round(box[0] / WIDTH)}" ' if self.drawing.across > 1 else ""
            found.append(Markup(text.replace("<svg", f'<svg {place}role="img" aria-label="{escape(label)}"', 1)))
        return found


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **HOW[kind])
    return buffer.getvalue()
