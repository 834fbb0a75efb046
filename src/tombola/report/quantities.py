"""The measured quantities that the report shows, and how numbers are written."""

import math
from dataclasses import dataclass

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"  # stands where there is no number


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A column of the records and how it is written."""

    column: str
    name: str  # as within a sentence
    axis: str  # the axis label, with its unit
    scale: float = 1.0  # shown number = scale * recorded number
    decimals: int = 3
    unit: str = ""  # follows a value
    gap_unit: str  # follows a difference
    higher_is_better: bool = False

    def show(self, value: float) -> str:
        """The value with its unit, such as "94.2%"; a dash where there is none."""
        return _dash(value) or f"{_minus(f'{self.scale * value:.{self.decimals}f}')}{self.unit}"

    def spread(self, mean: float, sd: float) -> str:
        """ "94.2 ± 0.3" without unit; the mean alone where there is no standard deviation."""
        if math.isnan(mean) or math.isnan(sd):
            return _dash(mean) or _minus(f"{self.scale * mean:.{self.decimals}f}")
        return f"{_minus(f'{self.scale * mean:.{self.decimals}f}')} ± {self.scale * sd:.{self.decimals}f}"

    def signed(self, gap: float) -> str:
        """A difference with its sign and one more decimal than a value has, without unit."""
        decimals = self.decimals + 1
        return _dash(gap) or _minus(f"{self.scale * gap:+.{decimals}f}")


ACCURACY = Quantity(
    column="accuracy",
    name="accuracy",
    axis="test accuracy (%)",
    scale=100,
    decimals=1,
    unit="%",
    gap_unit="percentage points",
    higher_is_better=True,
)
RMSE = Quantity(column="rmse", name="RMSE", axis="test RMSE (target units)", gap_unit="target units")
NLL = Quantity(column="nll", name="NLL", axis="test NLL (nats)", unit=" nats", gap_unit="nats")
ECE = Quantity(column="ece", name="ECE", axis="ECE (fraction)", gap_unit="")
MACE = Quantity(column="mace", name="top-label MACE", axis="top-label MACE (fraction)", gap_unit="")
DRIFT = [
    Quantity(column="drift_mean", name="mean drift of log sigma", axis="mean change of log sigma (nats)", gap_unit="nats"),
    Quantity(column="drift_spread", name="spread of that drift", axis="spread of the change (nats)", gap_unit="nats"),
    Quantity(column="drift_rank", name="rank correlation of sigma", axis="rank correlation of sigma", gap_unit=""),
]
OTHERS = [
    Quantity(column="brier", name="Brier score", axis="Brier score (0 to 2)", gap_unit=""),
    Quantity(column="mace_coded", name="MACE as coded", axis="MACE of every class (fraction)", gap_unit=""),
    Quantity(column="ece_excess", name="ECE above its null", axis="ECE minus its null (fraction)", gap_unit=""),
    Quantity(column="mace_excess", name="top-label MACE above its null", axis="MACE minus its null (fraction)", gap_unit=""),
    Quantity(column="predictive_entropy", name="predictive entropy", axis="predictive entropy (nats)", gap_unit="nats"),
    Quantity(column="mutual_information", name="mutual information", axis="mutual information (nats)", gap_unit="nats"),
    Quantity(
        column="best_accuracy",
        name="best epoch's accuracy (optimistic)",
        axis="best epoch's test accuracy (%)",
        scale=100,
        decimals=1,
        unit="%",
        gap_unit="percentage points",
        higher_is_better=True,
    ),
    Quantity(
        column="accuracy_sd",
        name="deviation of accuracy over repeats",
        axis="deviation of accuracy over repeats (%)",
        scale=100,
        decimals=2,
        unit="%",
        gap_unit="percentage points",
    ),
    Quantity(
        column="density_all",
        name="share of all parameters left",
        axis="all parameters left (%)",
        scale=100,
        decimals=2,
        unit="%",
        gap_unit="percentage points",
    ),
    Quantity(column="train_seconds", name="training time", axis="training time (s)", decimals=1, unit=" s", gap_unit="s"),
    Quantity(
        column="train_flops",
        name="operations of the training",
        axis="operations of the training (10\u00b9\u00b2)",
        scale=1e-12,
        gap_unit="10\u00b9\u00b2 operations",
    ),
    Quantity(
        column="total_seconds",
        name="training time with all it stands on",
        axis="training time with all levels before (s)",
        decimals=1,
        unit=" s",
        gap_unit="s",
    ),
    Quantity(
        column="total_flops",
        name="operations with all it stands on",
        axis="operations with all levels before (10\u00b9\u00b2)",
        scale=1e-12,
        gap_unit="10\u00b9\u00b2 operations",
    ),
]
KNOWN = {each.column: each for each in (ACCURACY, RMSE, NLL, ECE, MACE, *OTHERS[:6], *DRIFT, *OTHERS[6:])}
"""Quantity by its column, in the order in which the page offers them."""


def quantity_of(column: str) -> Quantity:
    """How a column is written; one that is not known goes by its own name."""
    name = column.replace("_", " ")
    return KNOWN.get(column) or Quantity(column=column, name=name, axis=name, gap_unit="")


def left(density: float) -> str:
    """A density in percent with three digits: 0.0115 is "1.15%"."""
    return f"{100 * density:.3g}%"


def number(value: float) -> str:
    """Three digits after the point; a dash for NaN."""
    return _dash(value) or _minus(f"{value:.3f}")


def duration(seconds: float) -> str:
    """Seconds in the unit that suits: "95 s", "12.3 min", "3.1 h"."""
    if math.isnan(seconds):
        return NONE
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def listed(words: list[str]) -> str:
    """ "a", "a and b", "a, b and c"; "none" for an empty list."""
    if len(words) < 2:
        return words[0] if words else "none"
    return f"{', '.join(words[:-1])} and {words[-1]}"


def shortened(words: list[str], most: int = 4) -> str:
    """The same for long lists: "a, b, c, d and 12 more"."""
    return listed(words) if len(words) <= most + 1 else f"{', '.join(words[:most])} and {len(words) - most} more"


def _dash(value: float) -> str:
    return NONE if math.isnan(value) else ""


def _minus(text: str) -> str:
    return text.replace("-", MINUS)
