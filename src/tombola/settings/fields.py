"""Fields of settings: a sentence, the bounds of the value, and marks of what depends on it."""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import field
from difflib import get_close_matches
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin

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
    kind = settings if isinstance(settings, type) else type(settings)
    return {f.name for f in _fields(kind) if mark in f.metadata.get("marks", ())}


def priced(settings: Any) -> list[str]:
    """Return the settings that the cost of a step depends on, as "name=value"."""
    kind: Any = type(settings)
    return [f"{name}={getattr(settings, name)}" for name in _costly(kind)]


@cache
def _costly(kind: Any) -> list[str]:
    costless = marked(kind, COSTLESS)
    return [f.name for f in _fields(kind) if f.name not in costless]


@cache  # a study has thousands of settings, of a few classes
def _fields(kind: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)


class Checked:
    """Base of settings: checks names, types, choices and bounds when made.

    A whole number in the place of a real one becomes real: 1 and 1.0 are one setting, so they have one key.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": True, "extra": "forbid"}

    def __new__(cls, *values: Any, **given: Any) -> Self:
        names = _names(cls)
        if values:
            raise TombolaError(f"{cls.__name__} takes its settings by name: {cls.__name__}({names[0]}=...)")
        for name in given:
            if name not in names:
                near = get_close_matches(name, names, 1)
                owners = [kind.__name__ for kind in Checked.__subclasses__() if name in _names(kind)]
                meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
                raise TombolaError(
                    f"{cls.__name__} has no setting {name!r}: {f'it is one of {owners[0]}' if owners else meant}"
                )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        kind: Any = type(self)
        for f in _fields(kind):
            value = getattr(self, f.name)
            if type(value) is not f.type:
                try:
                    value = _fitted(value, f.type)
                except TypeError:
                    raise TombolaError(
                        f"{f.name} is {_shown(value)}; it must be {_in_words(f.type)}{_mend(value, f.type)}"
                    ) from None
                object.__setattr__(self, f.name, value)
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, int | float) and not isinstance(item, bool):
                    _check_bounds(f.name, item, f.metadata)


T = TypeVar("T", bound=Checked)


def settings_of(kind: type[T], given: T | None, name: str) -> T:
    """Return the settings of the argument `name`, for None the defaults. Raises TombolaError for another type."""
    if given is None:
        return kind()
    if isinstance(given, kind):
        return given
    fields = ", ".join(f"{k}={v!r}" for k, v in given.items()) if isinstance(given, Mapping) else "..."
    raise TombolaError(f"{name} is {_shown(given)}; give {kind.__name__}({fields})")


def _names(kind: type) -> list[str]:
    return [f.name for f in _fields(kind)]


def _fitted(value: Any, kind: Any) -> Any:
    """Return the value as a field of type `kind` holds it. Raises TypeError if it does not fit."""
    inner = get_args(kind)
    match get_origin(kind) or kind:
        case origin if origin is Literal:
            fits = isinstance(value, str) and value in inner
        case origin if origin in (Union, UnionType):
            option = type(None) if value is None else next(k for k in inner if k is not type(None))
            # a whole number stays one here, as it always has in keys
            return value if type(value) is int and option is float else _fitted(value, option)
        case origin if origin is list:
            fits = isinstance(value, list | tuple)
            value = [_fitted(item, inner[0]) for item in value] if fits else value
        case origin if origin in (int, float):
            fits = isinstance(value, Integral if origin is int else Real) and not isinstance(value, bool)
            value = origin(value) if fits else value  # of numpy, too
        case origin:
            fits = isinstance(value, origin)
    if not fits:
        raise TypeError
    return value


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "True or False", type(None): "None"}


def _in_words(kind: Any) -> str:
    """Describe the type of a field."""
    inner = get_args(kind)
    match get_origin(kind) or kind:
        case origin if origin is Literal:
            return f"one of {', '.join(inner)}"
        case origin if origin in (Union, UnionType):
            return " or ".join(map(_in_words, inner))
        case origin if origin is list:
            return f"a list, each {_in_words(inner[0])}"
        case origin if origin is dict:
            return "a dict"
        case origin:
            return _WORDS.get(origin, origin.__name__)


def _shown(value: Any) -> str:
    """Show a value in an error: functions, classes and containers by their kind."""
    if inspect.isroutine(value) or inspect.isclass(value):
        return f"the {'class' if inspect.isclass(value) else 'function'} {value.__name__}"
    short = (value is None or isinstance(value, str | int | float | list | tuple)) and len(repr(value)) <= 80
    return repr(value) if short else f"a {type(value).__name__}"


def _mend(value: Any, kind: Any) -> str:
    """Return the nearest right choice, or how a function is named, if that is what is wrong."""
    if callable(value):
        return ": give an import path, as 'package.module:name', and not the object itself"
    choices = [c for k in (kind, *get_args(kind)) if get_origin(k) is Literal for c in get_args(k)]
    near = get_close_matches(value, choices, 1) if isinstance(value, str) else []
    return f" (did you mean {near[0]!r}?)" if near else ""


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
