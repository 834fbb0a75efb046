"""Figures of `evaluate.measures`: what the uncertainty of tickets is good for, over weights left."""

from collections.abc import Sequence

from tombola.metrics.column import Column, listed
from tombola.metrics.columns import RECORDS
from tombola.metrics.uncertainty_columns import OUTSIDE, SCORES

from . import text
from .figures import cell, grid
from .looks import Style
from .panels import Panel
from .plate import Plate

SECTIONS: dict[str, tuple[str, Sequence[str], str]] = {
    "rejection": (
        "Rejection of errors",
        ("excess_aurc_confidence", "excess_aurc_information", "risk80_confidence"),
        "how well uncertainty ranks the errors, and the error that is left when the least sure fifth is rejected (lower is "
        "better)",
    ),
    "outside": (
        "Outliers",
        tuple(f"auroc_{name}_{score}" for name in OUTSIDE for score in SCORES if score != "confidence"),
        "the chance that an outlier is less sure than a test example (0.5 by guessing, 1 at best)",
    ),
    "corrupted": (
        "Corrupted images",
        ("accuracy_corrupted", "nll_corrupted", "ece_corrupted"),
        "fifteen corruptions at five severities together",
    ),
    "conformal": (
        "Conformal prediction",
        ("conformal_coverage", "conformal_size", "conformal_width"),
        "how often sets or intervals made for 90% contain the truth, and how large they have to be (smaller is better)",
    ),
    "scaling": (
        "Calibration, further",
        ("temperature", "nll_tempered", "ece_tempered", "ece_adaptive"),
        "the temperature fitted on validation examples (above 1: too sure before), what it leaves, and ECE in bins of "
        "equally many examples",
    ),
    "intervals": (
        "Intervals",
        ("crps", "interval_coverage", "interval_width"),
        "CRPS, and the prediction's own central 90% intervals",
    ),
}
"""Name of a figure -> its title, the columns that it shows, and what they are."""


def measures(panel: Panel, look: dict[str, Style]) -> list[Plate]:
    """Return a figure for each measure that the records have; controls are left out as from the other metrics."""
    return [plate for name in SECTIONS for plate in _plate(panel, look, name)]


def _plate(panel: Panel, look: dict[str, Style], name: str) -> list[Plate]:
    title, columns, meaning = SECTIONS[name]
    known = [RECORDS[column] for column in columns if column in panel.records and panel.records[column].notna().any()]
    if not known:
        return []
    closer = panel.uncontrolled()
    fewer = 2 <= len(closer) < len(panel.curves)
    records = panel.records[panel.records["curve"].isin(closer)] if fewer else panel.records
    across = 3 if len(known) > 4 or len(known) == 3 else 2
    cells = [
        cell(records[records[q.name].notna()], q, row=i // across, column=i % across, band=True, own_scale=True)
        for i, q in enumerate(known)
    ]
    drawings = {f"{panel.number}-{name}": grid(cells, look, "density")}
    caption = f"{listed([q.label for q in known])} over weights left: {meaning}; {_spread(panel, known[0], fewer)}."
    return [Plate(title=title, drawings=drawings, caption=text.sentence(caption), metric=known[0].name)]


def _spread(panel: Panel, quantity: Column, fewer: bool) -> str:
    return text.spread(panel, quantity) + (", without controls" if fewer else "")
