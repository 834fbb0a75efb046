"""Matplotlib figures as bytes: inline SVG for the page, PNG for a folder. Equal figures give equal bytes."""

import html
import io
import re
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

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
}


def svg(figure: Figure, *, name: str, label: str) -> Markup:
    """The figure as an <svg> element that fills its container; `name` goes before its ids, for a page repeats none."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]  # the prolog has no place within a page
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
    return Markup(text)


def png(figure: Figure) -> bytes:
    """The figure as PNG, 200 dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()
