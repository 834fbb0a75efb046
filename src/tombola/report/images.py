"""Matplotlib figures as bytes: inline SVG for the page, files for a folder. Equal figures give equal bytes."""

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from .figures import Drawing

# for matplotlib.rc_context: around the drawing and around the saving
SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 9,
    "text.parse_math": False,  # names may hold a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.3",
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "lines.markeredgewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 2,
    "legend.columnspacing": 1.2,
    "svg.fonttype": "path",  # the page brings no font
    "svg.hashsalt": "tombola",
    "pdf.fonttype": 42,  # text that can be selected, as journals ask
}
HOW: dict[str, dict[str, Any]] = {  # without dates and versions, so that equal figures give equal bytes
    "png": {"dpi": 200, "metadata": {"Software": None}},
    "svg": {"metadata": {"Date": None, "Creator": None, "Format": None, "Type": None}},
    "pdf": {"metadata": {"Creator": None, "Producer": None, "CreationDate": None}},
}
FORMATS = tuple(HOW)
"""Formats of a figure's files; the numbers are written as CSV beside them."""
DEFAULT_FORMATS = ("png",)
"""A PDF embeds fonts, which takes longer than all else; the page holds the SVG anyway."""


@dataclass(frozen=True)
class Picture:
    """A drawing that is laid out, with its name and its SVG."""

    name: str
    drawing: Drawing
    svg: bytes

    @classmethod
    def of(cls, name: str, drawing: Drawing) -> "Picture":
        """Lay the drawing out. Call it within matplotlib.rc_context(SETTINGS)."""
        engine = drawing.figure.get_layout_engine()
        if engine is not None:
            engine.execute(drawing.figure)
            # None rather than "none": with the placeholder that "none" sets, each saving draws the figure twice
            drawing.figure.set_layout_engine(None)
        return cls(name, drawing, _saved(drawing.figure, "svg"))

    def files(self, formats: Sequence[str] = DEFAULT_FORMATS) -> dict[str, bytes]:
        """Return the figure in these formats, and its numbers as CSV, by file name."""
        with matplotlib.rc_context(SETTINGS):
            figures = {kind: self.svg if kind == "svg" else _saved(self.drawing.figure, kind) for kind in formats}
        numbers = self.drawing.numbers.to_csv(index=False, lineterminator="\n").encode()
        return {f"{self.name}.{kind}": content for kind, content in {**figures, "csv": numbers}.items()}

    def inline(self, label: str) -> Markup:
        """Return the SVG as an element that fills its container; ids get the name as prefix, so that a page repeats none."""
        text = self.svg.decode()
        text = text[text.index("<svg") :]  # a page holds no prolog
        text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", text)
        text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
        text = text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
        return Markup(text)


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, **HOW[kind])
    return buffer.getvalue()
