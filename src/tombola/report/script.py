"""The scripts of a page, and the policy that lets these run and nothing else."""

import base64
import gzip
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from markupsafe import Markup

PARTS = ("marks.js", "explorer.js", "heatmap.js", "page.js")


@dataclass(frozen=True)
class Scripts:
    """What the template writes into the page."""

    own: Markup
    """Our script."""
    plotly: Markup
    """Plotly's script, gzipped, as base64: the page is half as large, and is on the screen before the script is parsed."""
    policy: str
    """Content-Security-Policy: exactly these two scripts, styles and pictures made in the page, no request to anywhere."""


@cache
def scripts() -> Scripts:
    """The scripts that come with tombola and with plotly."""
    from plotly.offline import get_plotlyjs

    folder = resources.files("tombola.report")
    own = "(() => {\n'use strict';\n" + "\n".join(folder.joinpath(name).read_text() for name in PARTS) + "\n})();"
    plotly = get_plotlyjs()
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (own, plotly)]
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"
    packed = base64.b64encode(gzip.compress(plotly.encode(), compresslevel=9, mtime=0)).decode()
    return Scripts(Markup(own), Markup(packed), policy)


def embedded(value: Any) -> Markup:
    """JSON that may stand inside a <script> element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
