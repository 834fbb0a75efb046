"""Data and scripts of the interactive charts: the records of each panel as columns."""

import base64
import gzip
import hashlib
import json
import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd
from markupsafe import Markup

from tombola.metrics.column import KINDS
from tombola.metrics.columns import RECORDS

from .layers import layer_table
from .looks import Style, swatch
from .panels import CONTROLS, Panel
from .quantities import quantity_of
from .statistics import by_curve_and_seed

SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
    "<": "triangle-left",
    ">": "triangle-right",
    "*": "star",
}
LINES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
NULL_ENDS = ("_null", "_null_low", "_null_high")
DIGITS = 6


def panel_data(panel: Panel, look: dict[str, Style]) -> dict[str, Any]:
    """Return one panel as JSON-ready values: curves with their looks, metrics, rows (a list per column), layer densities."""
    metrics = metrics_of(panel)
    nulls = [f"{m}{end}" for m in metrics for end in NULL_ENDS if f"{m}_null_high" in panel.records]
    rows = by_curve_and_seed(panel.records, [*metrics, *nulls])
    order = {curve: i for i, curve in enumerate(panel.curves)}
    rows = rows.assign(curve=rows["curve"].map(order)).sort_values(["curve", "level", "seed"])
    return {
        "title": panel.title,
        "curves": [
            {
                "name": curve,
                "control": panel.arm(curve) in CONTROLS,
                "colour": look[curve]["color"],
                "symbol": SYMBOLS[look[curve]["marker"]],
                "dash": LINES[look[curve]["linestyle"]],
                "swatch": swatch(*(str(look[curve][part]) for part in ("color", "linestyle", "marker"))),
            }
            for curve in panel.curves
        ],
        "metrics": [_metric(column) for column in metrics],
        "chance": None if math.isnan(panel.chance()) else panel.chance(),
        "rows": {name: _numbers(rows[name]) for name in rows},
        "layers": _layers(panel),
    }


def metrics_of(panel: Panel) -> list[str]:
    """Return the numeric columns with values and a label: the panel's main quantity first, unknown ones last."""
    records = panel.records.drop(columns="side", errors="ignore")
    found = [str(column) for column in records if pd.api.types.is_numeric_dtype(records[column])]
    offered = [name for name in found if quantity_of(name).label and records[name].notna().any()]

    def place(name: str) -> tuple[bool, bool, int, bool]:
        # the optimistic choice of an epoch comes after the results of its kind
        kind = KINDS.index(quantity_of(name).kind)
        return name != panel.main.name, name not in RECORDS, kind, name == "best_accuracy"

    return sorted(offered, key=place)


def _metric(column: str) -> dict[str, Any]:
    quantity = quantity_of(column)
    return {
        "column": column,
        "name": quantity.label,
        "axis": quantity.axis_label,
        "scale": quantity.scale,
        "unit": quantity.suffix,
        "decimals": quantity.decimals if column in RECORDS else None,
    }


def _layers(panel: Panel) -> dict[str, Any] | None:
    """Return layer names, and for each curve and level a list of densities; None if no densities are recorded."""
    table = layer_table(panel.records, panel.curves)
    if table.empty:
        return None
    names = list(table["layer"].unique())
    curves, ends = [], ("mean", "low", "high")
    for curve, rows in table.groupby("curve", sort=False):
        grids = {name: rows.pivot(index="level", columns="layer", values=name).reindex(columns=names) for name in ends}
        left = rows.groupby("level")["left"].first()
        curves.append(
            {
                "curve": panel.curves.index(str(curve)),
                "level": [int(level) for level in left.index],
                "left": _numbers(left),
                **{name: [_numbers(row) for _, row in grid.iterrows()] for name, grid in grids.items()},
            }
        )
    return {"names": names, "curves": curves}


def _numbers(values: pd.Series) -> list[float | int | None]:
    """Return JSON values: six digits, None for NaN and infinity, integers without a point."""
    rounded = [float(f"{value:.{DIGITS}g}") for value in values]
    return [None if not math.isfinite(v) else int(v) if v.is_integer() else v for v in rounded]


PARTS = ("marks.js", "explorer.js", "heatmap.js", "page.js")


@dataclass(frozen=True)
class Scripts:
    """Scripts that the template writes into the page, and their security policy."""

    own: Markup
    """The page's own script."""
    plotly: Markup
    """Plotly's script, gzipped, as base64: this halves the page, and the browser shows it before it parses the script."""
    policy: str
    """Content-Security-Policy: exactly these two scripts, inline styles, pictures made in the page, no network request."""


@cache
def scripts() -> Scripts:
    """Return the scripts of tombola and of plotly."""
    from plotly.offline import get_plotlyjs

    folder = resources.files("tombola.report")
    own = "(() => {\n'use strict';\n" + "\n".join(folder.joinpath(name).read_text() for name in PARTS) + "\n})();"
    plotly = get_plotlyjs()
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (own, plotly)]
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    packed = base64.b64encode(gzip.compress(plotly.encode(), compresslevel=6, mtime=0)).decode()
    return Scripts(Markup(own), Markup(packed), policy)


def embedded(value: Any) -> Markup:
    """Return JSON for the inside of a <script> element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
