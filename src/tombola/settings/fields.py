"""Fields of settings: a sentence, the bounds of the value, and marks of what depends on it."""

import dataclasses
from dataclasses import field
from typing import Any, ClassVar, Literal, get_args, get_origin

from tombola.errors import TombolaError

Mark = Literal["bayesian", "costless", "unlabelled", "column", "whole"]

BAYESIAN: Mark = "bayesian"
"""Mark of a field that deterministic training does not read."""
COSTLESS: Mark = "costless"
"""Mark of a field that changes neither the time nor the memory of a step; all others are taken to change both."""
UNLABELLED: Mark = "unlabelled"
"""Mark of a field left out of the `settings` label of records: it changes no number, or has a label of its own."""
COLUMN: Mark = "column"
"""Mark of a field with a column in records, so the name of a variant leaves it out."""
WHOLE: Mark = "whole"
"""Mark of a field of the whole study, which does not fan out."""


def setting(
    default: Any,
    help: str,
    *marks: Mark,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> Any:
    """Return a field with its sentence, its marks and the bounds of its value (`above` and `below` are exclusive)."""
    meta = {"help": help, "marks": marks, "above": above, "least": least, "below": below, "most": most}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=meta)
    return field(default=default, metadata=meta)


def marked(settings: Any, mark: Mark) -> set[str]:
    """Return the names of the fields with this mark; settings: an object or its class."""
    return {f.name for f in dataclasses.fields(settings) if mark in f.metadata.get("marks", ())}


def priced(settings: Any) -> list[str]:
    """Return the settings that the cost of a step depends on, as "name=value"."""
    costless = marked(settings, COSTLESS)
    return [f"{f.name}={getattr(settings, f.name)}" for f in dataclasses.fields(settings) if f.name not in costless]


class Checked:
    """Base of settings: checks bounds and choices when made. Types are checked strictly when YAML is read.

    A whole number in the place of a real one becomes real: 1 and 1.0 are one setting, so they have one key.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": True, "extra": "forbid"}

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _as_real(getattr(self, f.name), f.type)
            object.__setattr__(self, f.name, value)
            if get_origin(f.type) is Literal and value not in get_args(f.type):
                raise TombolaError(f"{f.name} is {value!r}; it must be one of {', '.join(get_args(f.type))}")
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, int | float) and not isinstance(item, bool):
                    _check_bounds(f.name, item, f.metadata)


def _as_real(value: Any, kind: Any) -> Any:
    if kind == list[float]:
        return [_as_real(item, float) for item in value]
    return float(value) if kind is float and type(value) is int else value


def _check_bounds(name: str, value: float, bounds: Any) -> None:
    if value != value:
        raise TombolaError(f"{name} is nan")
    for bound, holds, words in (
        (bounds.get("above"), lambda b: value > b, "above"),
        (bounds.get("least"), lambda b: value >= b, "at least"),
        (bounds.get("below"), lambda b: value < b, "below"),
        (bounds.get("most"), lambda b: value <= b, "at most"),
    ):
        if bound is not None and not holds(bound):
            raise TombolaError(f"{name} is {value}; it must be {words} {bound}")
