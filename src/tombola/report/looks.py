"""Colours, markers and dashes: of curves, the same for an arm on every page, and of axes; their names for a dark page."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.lines import Line2D

# Okabe and Ito's colours, which colour-blind readers can tell apart; without yellow, too pale on white
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
DASHES = ("-", "--", ":", "-.")
INK, AXIS, GRID, NULL, NULL_LINE, PAPER = "#1a1a1a", "#4d4d4d", "#ebebeb", "#d9d9d9", "#808080", "#ffffff"
SHADES = ("#595959", "#a6a6a6", "#cccccc", "#eeeeee")  # of kinds of stages: colours are for curves

Style = dict[str, Any]

HOMES = (
    *("ticket (snr)", "ticket (mu)", "deterministic", "transplant"),
    *("re-init", "layer-wise shuffle", "global shuffle", "even shuffle"),
)
"""Arms in the order of `COLOURS` and `MARKERS`; a ticket with its score, since scores are what tickets differ in."""


def styles(curves: Sequence[str]) -> dict[str, Style]:
    """Return colour, marker and dashes of every curve: an arm's own, the same on every page; others get what is free."""
    found: dict[str, Style] = {}
    for curve in curves:
        home = _home(curve)
        if home and home not in found.values():
            found[curve] = home
    for curve in curves:
        if curve not in found:
            found[curve] = _free(list(found.values()))
    return {curve: found[curve] for curve in curves}


def _home(curve: str) -> Style | None:
    """Return the look of an arm without changes of its settings; dashed where its mask is of a deterministic chain."""
    parts = re.fullmatch(r"(.+?)( of deterministic)?(?: \((\w+)\))?", curve)
    name = "" if parts is None else f"ticket ({parts[3]})" if parts[1] == "ticket" else parts[1]
    if parts is None or name not in HOMES:
        return None
    i = HOMES.index(name)
    return {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[bool(parts[2])]}


def _free(taken: Sequence[Style]) -> Style:
    """Return a look unlike all that are taken, in colour or in marker, of the colour that is taken least."""
    pairs = {(style["color"], style["marker"]) for style in taken}
    count = Counter(style["color"] for style in taken)
    colour, marker = min(_pairs(pairs), key=lambda pair: count[pair[0]])
    return {"color": colour, "marker": marker, "linestyle": DASHES[count[colour] // len(MARKERS) % len(DASHES)]}


def _pairs(taken: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    # neighbours differ in both; a pair that is taken returns when none is left
    every = [(c, MARKERS[(i + k) % len(MARKERS)]) for k in range(len(MARKERS)) for i, c in enumerate(COLOURS)]
    return iter([pair for pair in every if pair not in taken] or every)


def in_variables(text: str) -> str:
    """Return an SVG whose colours are CSS variables, such as var(--c0072b2), so that a page may darken them."""
    return _NAMED.sub(r"var(--c\1)", text)


_NAMED = re.compile("#(" + "|".join(c[1:] for c in (*COLOURS, *SHADES, INK, AXIS, GRID, NULL, NULL_LINE, PAPER)) + ")", re.I)

SHAPES = {  # of a legend's marks, 8 wide and high around the origin
    "o": "M4,0A4,4 0 1 1 -4,0A4,4 0 1 1 4,0Z",
    "s": "M-3.5,-3.5H3.5V3.5H-3.5Z",
    "^": "M0,-4.4L4.4,3.6H-4.4Z",
    "D": "M0,-4.6L4.6,0L0,4.6L-4.6,0Z",
    "v": "M0,4.4L4.4,-3.6H-4.4Z",
    "P": "M-4,-1.5H-1.5V-4H1.5V-1.5H4V1.5H1.5V4H-1.5V1.5H-4Z",
    "X": "M-4,-2L-2,-4L0,-2L2,-4L4,-2L2,0L4,2L2,4L0,2L-2,4L-4,2L-2,0Z",
    "<": "M-4.4,0L3.6,-4.4V4.4Z",
    ">": "M4.4,0L-3.6,-4.4V4.4Z",
    "*": "M0,-5L1.2,-1.6H4.8L1.9,0.6L3,4L0,1.9L-3,4L-1.9,0.6L-4.8,-1.6H-1.2Z",
    "bar": "M-8,-4.5H8V4.5H-8Z",
}
STROKES = {"-": "", "--": "6 3", ":": "2 2", "-.": "7 2 2 2"}


def swatches(figures: Iterable[Axes]) -> dict[str, Markup]:
    """Return for each label of the axes its line and mark, or its shade, for a legend in the page."""
    found = {}
    for axes in figures:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if isinstance(handle, Line2D):
                found[label] = swatch(str(handle.get_color()), str(handle.get_linestyle()), str(handle.get_marker()))
            else:
                assert isinstance(handle, BarContainer)
                found[label] = swatch(to_hex(handle.patches[0].get_facecolor()), "None", "bar")
    return found


def swatch(colour: str, dash: str, marker: str) -> Markup:
    """Return the line and the mark of a curve, as in the figures, for a legend."""
    line = f'<path d="M-14,0H14" style="stroke: {colour}" stroke-width="2" stroke-dasharray="{STROKES.get(dash, "")}"/>'
    return Markup(
        in_variables(
            '<svg class="swatch" viewBox="-15 -6 30 12" width="30" height="12" aria-hidden="true">'
            f'{line if dash in STROKES else ""}<path d="{SHAPES.get(marker, "")}" style="fill: {colour}"/></svg>'
        )
    )
