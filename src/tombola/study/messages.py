"""Validation messages: pydantic's first error as one sentence that names the setting, its value and a remedy."""

import dataclasses
import typing
import unicodedata
from difflib import get_close_matches
from typing import Any


def in_short(text: str, most: int = 60) -> str:
    """Return a text that others wrote with its middle left out, so that a sentence about it stays readable."""
    return text if len(text) <= most else f"{text[: most - 15]} ... {text[-10:]}"


def printable(text: str) -> str:
    """Return a text that others wrote without characters that steer a terminal or turn the order of letters around.

    Each of them is replaced by its escape, as Python writes it.
    """
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in text)


def sentence(error: Any, root: type) -> str:
    """Return the first of pydantic's errors as one sentence. root: class of the checked settings."""
    first = error.errors()[0]
    path = in_short(".".join(str(part) for part in first["loc"]))
    value, kind = first["input"], first["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        names = _fields_at(first["loc"][:-1], root)
        near = get_close_matches(str(first["loc"][-1]), names, 1)
        known = in_short(", ".join(names), 160)
        return f"unknown key {path!r}: {f'did you mean {near[0]!r}? ' if near else ''}there are {known}"
    if kind == "value_error":
        said = in_short(str(first["ctx"]["error"]), 220)
        return f"{path}: {said}" if path else said
    if isinstance(value, str) and _is_number(value):
        text = f"{path} is the text {in_short(value)!r}"
        return f"{text}: YAML reads numbers such as 1e-3 as text; write 1.0e-3 or 0.001, without quotes"
    return f"{path} is {in_short(repr(value))}; {first['msg'][0].lower()}{first['msg'][1:]}"


def _fields_at(loc: tuple[Any, ...], kind: Any) -> list[str]:
    for part in loc:
        if isinstance(part, str):
            hint = typing.get_type_hints(kind)[part]
            kind = next((h for h in (*typing.get_args(hint), hint) if dataclasses.is_dataclass(h)), hint)
    return [f.name for f in dataclasses.fields(kind)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
