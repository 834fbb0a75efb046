"""A column of the records, with its meaning, and the ways to write its numbers, densities and lists."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

Kind = Literal[
    "label", "metric", "calibration", "null", "uncertainty", "drift", "size", "cost", "timing", "setting", "environment"
]
"""Kinds in the order of the report's menu. `timing` differs between two runs of one study, `environment` tells where a row
was made: records are compared without both."""
KINDS: tuple[Kind, ...] = get_args(Kind)

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
"""The sign for a number that is missing."""


@dataclass(frozen=True)
class Column:
    """A column with its meaning and the format of its numbers."""

    name: str
    kind: Kind
    unit: str
    sentence: str
    """Its meaning, as the documentation has it: Markdown."""
    _: KW_ONLY
    optional: bool = False
    """True: absent from a table whose rows all lack it; False: there, with NaN."""

    label: str = ""
    """Its name within a sentence of the report; a column without one is not offered as a curve."""
    axis: str = ""
    """The axis label; empty: the label with the unit."""
    scale: float = 1.0  # shown number = scale * recorded number
    decimals: int = 3
    suffix: str = ""  # follows a value
    gap_unit: str = ""  # follows a difference
    higher_is_better: bool = False

    @property
    def axis_label(self) -> str:
        return self.axis or (f"{self.label} ({self.unit})" if self.unit else self.label)

    def show(self, value: float) -> str:
        """Return the value with its unit, such as "94.2%"; a dash for NaN."""
        return NONE if math.isnan(value) else self._written(value) + self.suffix

    def spread(self, mean: float, sd: float) -> str:
        """Return "94.2 ± 0.3" without unit; the mean alone where there is no standard deviation."""
        if math.isnan(mean):
            return NONE
        return self._written(mean) + ("" if math.isnan(sd) else f" ± {self.scale * sd:.{self.decimals}f}")

    def signed(self, gap: float) -> str:
        """Return a difference with its sign and one more decimal than a value has, without unit."""
        return NONE if math.isnan(gap) else f"{self.scale * gap:+.{self.decimals + 1}f}".replace("-", MINUS)

    def _written(self, value: float) -> str:
        return f"{self.scale * value:.{self.decimals}f}".replace("-", MINUS)


def left(density: float) -> str:
    """Return a density in percent with three digits: 0.0115 is "1.15%"."""
    return f"{100 * density:.3g}%"


def listed(words: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"; "none" for an empty list."""
    if len(words) < 2:
        return words[0] if words else "none"
    return f"{', '.join(words[:-1])} and {words[-1]}"


def with_null(name: str, sentence: str, *, optional: bool = False, **how: Any) -> list[Column]:
    """Return a calibration metric and its companions; only classifications have the ends of the null."""
    metric = Column(name, "calibration", "fraction", sentence, optional=optional, **how)
    null = "the [null](concepts.md#metrics-and-their-nulls): mean of the metric if the model were perfectly calibrated"
    label, axis = f"{metric.label} above its null", metric.axis_label.replace(" (", " minus its null (")
    above = "the metric minus the mean of its null"
    return [
        metric,
        Column(f"{name}_null", "null", "fraction", null, optional=optional),
        Column(f"{name}_null_low", "null", "fraction", "2.5% quantile of the null", optional=True),
        Column(f"{name}_null_high", "null", "fraction", "97.5% quantile of the null", optional=True),
        Column(f"{name}_excess", "null", "fraction", above, optional=True, label=label, axis=axis),
        Column(f"{name}_empty_bins", "null", "bins", "bins without a point (a mean over repeats)", optional=True),
    ]
