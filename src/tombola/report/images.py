"""Matplotlib figures as bytes: inline SVG for the page, four kinds of files for a folder. Equal figures give equal bytes."""

import html
import io
import re
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
UNDATED = {"Creator": None, "Producer": None, "CreationDate": None}


@dataclass(frozen=True)
class Picture:
    """A drawing that is laid out, with the name of its files."""

    name: str
    drawing: Drawing
    svg: bytes

    @classmethod
    def of(cls, name: str, drawing: Drawing) -> "Picture":
        """Within matplotlib.rc_context(SETTINGS)."""
        engine = drawing.figure.get_layout_engine()
        if engine is not None:
            engine.execute(drawing.figure)
            drawing.figure.set_layout_engine("none")  # once is enough, and takes longer than a saving
        svg = _saved(drawing.figure, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        return cls(name, drawing, svg)

    def files(self) -> dict[str, bytes]:
        """By file name: SVG, PDF, PNG at 200 dots per inch, and the numbers as CSV."""
        with matplotlib.rc_context(SETTINGS):
            return {
                f"{self.name}.svg": self.svg,
                f"{self.name}.pdf": _saved(self.drawing.figure, format="pdf", metadata=UNDATED),
                f"{self.name}.png": _saved(self.drawing.figure, format="png", dpi=200, metadata={"Software": None}),
                f"{self.name}.csv": self.drawing.numbers.to_csv(index=False, lineterminator="\n").encode(),
            }

    def inline(self, label: str) -> Markup:
        """The SVG as an element that fills its container; the name goes before its ids, for a page repeats none."""
        text = self.svg.decode()
        text = text[text.index("<svg") :]  # the prolog has no place within a page
        text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", text)
        text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
        text = text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
        return Markup(text)


def _saved(figure: Figure, **how: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, **how)
    return buffer.getvalue()
