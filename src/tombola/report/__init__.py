"""The report of a study: one self-contained HTML page, and its figures as PNG files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_report"]


def write_report(
    records: pd.DataFrame, study: Mapping[str, Any], out: Path, *, failed: Sequence[str] = (), missing: int = 0
) -> Path:
    """Writes `out` (an .html file) and out.parent/"figures"/*.png; returns `out`.

    `records` has one row per evaluated ticket, `study` is the resolved study. `failed` holds a sentence per failed
    stage, `missing` counts the stages that are still to come. A reader sees the old page or the new one, never a half.
    """
    from tombola.report.page import render  # pandas, scipy and matplotlib take a second to import

    html, figures = render(records, study, failed=failed, missing=missing)
    out = Path(out)
    folder = out.parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, png in figures.items():
        _replace(folder / f"{name}.png", png)
    _replace(out, html.encode())
    return out


def _replace(path: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide the page from a web server
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
