"""The report of a study, or of two: one self-contained HTML page, and its figures as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.files import written_aside

if TYPE_CHECKING:
    import pandas as pd

    from .compare import Side
    from .images import Picture

__all__ = ["write_comparison", "write_report"]


def write_report(
    records: pd.DataFrame,
    study: Mapping[str, Any],
    out: Path,
    *,
    stages: pd.DataFrame | None = None,
    analyses: pd.DataFrame | None = None,
    histories: pd.DataFrame | None = None,
    failed: Sequence[str] = (),
    missing: int = 0,
    formats: Sequence[str] = ("png",),
) -> Path:
    """Write `out` (an .html file), and into out.parent/"figures" each figure as CSV and in `formats`; return `out`.

    `records` has one row per evaluated ticket, `study` is the resolved study. `stages` has one row per finished stage
    (kind, seconds, curve, variant, model, data), `analyses` one per number of an analysis, `histories` one per epoch of a
    training. `failed` holds a sentence per
    failed stage, `missing` counts the stages that are still to run; formats: of "png", "svg", "pdf". A reader sees the old
    page or the new one, never a half.
    """
    from .page import FIGURES, render

    html, pictures = render(
        records,
        study,
        stages=stages,
        analyses=analyses,
        histories=histories,
        failed=failed,
        missing=missing,
        formats=formats,
    )
    return _write(html, pictures, Path(out), FIGURES, formats)


def write_comparison(first: Side, second: Side, out: Path, *, formats: Sequence[str] = ("png",)) -> Path:
    """Write `out` (an .html file), and its figures into a folder beside it named as `out` with "-figures"; return `out`.

    Raises TombolaError where the two studies have no model and data in common.
    """
    from .compare import render

    folder = f"{Path(out).stem}-figures"  # a report's figures beside it keep their place
    html, pictures = render(first, second, folder, formats)
    return _write(html, pictures, Path(out), folder, formats)


def _write(html: str, pictures: Sequence[Picture], out: Path, folder: str, formats: Sequence[str]) -> Path:
    from .images import FORMATS

    (out.parent / folder).mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        for kind in FORMATS:  # a figure of another format would be one of older records
            (out.parent / folder / f"{picture.name}.{kind}").unlink(missing_ok=True)
        for name, content in picture.files(formats).items():
            with written_aside(out.parent / folder / name) as aside:
                aside.write_bytes(content)
    with written_aside(out) as aside:
        aside.write_bytes(html.encode())
    return out
