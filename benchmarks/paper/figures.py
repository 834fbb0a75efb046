"""The figures of docs/paper.md: for each experiment the plot of `report.overview`, nets side by side."""

import io
from collections.abc import Iterator
from pathlib import Path

import matplotlib
from PIL import Image

from benchmarks.paper.picks import Pool
from tombola.report.figures import Drawing
from tombola.report.images import SETTINGS
from tombola.report.overview import overview
from tombola.report.panels import panels

DOTS = 130
"""Dots per inch."""
DRAWN = {
    "scores": ("accuracy", "Accuracy over weights left, by score (the paper's figure 1)"),
    "layers": ("layers", "Density of each prunable tensor over its place in the network, at the last level (figure 2)"),
    "randomise": ("accuracy", "Weights drawn anew, and masks shuffled (figures 3 and 4)"),
    "transplant": ("accuracy", "Transplants beside both kinds of tickets, and their controls (figure 5)"),
    "rewind": ("accuracy", "Learning-rate rewinding, weight rewinding, and the latter at equal budget (figure 8)"),
    "size": ("accuracy", "Larger and smaller nets of each family (figure 6)"),
    "rate": ("accuracy", "Tickets by learning rate and warm-up (figure 7)"),
    "calibration": ("mace", "MACE over weights left; grey: what a perfectly calibrated model would show (figure 9)"),
}
"""Study, which is a section of the page -> its figure of the overview, and what it shows."""


def drawings(pool: Pool) -> Iterator[tuple[str, Drawing]]:
    """Yield the section and the drawing of each study that has records of several nets."""
    with matplotlib.rc_context(SETTINGS):
        for section, (name, _) in DRAWN.items():
            own = pool.records[pool.records["study"] == f"paper-{section}"]
            short = own["variant"].fillna("").str.replace(r"\w+\.(?=\w+=)", "", regex=True)  # titles have little room
            seen = overview(panels(own.assign(variant=short)), {})
            for plate in seen.plates if seen else ():
                if f"nets-{name}" in plate.drawings:
                    yield section, plate.drawings[f"nets-{name}"]


def write(drawing: Drawing, folder: Path, name: str) -> None:
    """Write a small PNG, and the numbers as CSV."""
    buffer = io.BytesIO()
    drawing.figure.savefig(buffer, format="png", dpi=DOTS, metadata={"Software": None})
    Image.open(buffer).convert("RGB").quantize(64).save(folder / f"{name}.png", optimize=True)
    drawing.numbers.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
