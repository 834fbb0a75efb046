"""The columns that figures and sentences name, and functions that write numbers and long lists as words."""

import math
from collections.abc import Sequence

from tombola.metrics.column import MINUS, NONE, Column, listed
from tombola.metrics.columns import RECORDS, names

ACCURACY, RMSE, NLL, ECE, MACE = (RECORDS[name] for name in ("accuracy", "rmse", "nll", "ece", "mace"))
DRIFT = [RECORDS[name] for name in names("drift")]


def quantity_of(name: str) -> Column:
    """Return the column of that name; a column of the user's own is labelled by its name."""
    return RECORDS.get(name) or Column(name, "metric", "", "", label=name.replace("_", " "))


def number(value: float) -> str:
    """Return three digits after the point; a dash for NaN."""
    return NONE if math.isnan(value) else f"{value:.3f}".replace("-", MINUS)


def duration(seconds: float) -> str:
    """Return seconds in a unit that suits them: "95 s", "12.3 min", "3.1 h"."""
    if math.isnan(seconds):
        return NONE
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def shortened(words: Sequence[str], most: int = 4) -> str:
    """Return `listed` words, of long lists the first: "a, b, c, d and 12 more"."""
    return listed(words) if len(words) <= most + 1 else f"{', '.join(words[:most])} and {len(words) - most} more"
