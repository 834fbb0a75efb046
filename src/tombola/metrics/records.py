"""Tables of records, read from files."""

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.errors import TombolaError

from .columns import RECORDS, names

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_NEEDED = ("study", "curve", "variant", "model", "data", "seed", "level", "density", "accuracy")
_WHOLE = {"seed": 0, "level": 0, "parameters": 1}
"""Column -> least value of numbers that are whole, and never missing."""


def read(paths: Sequence[Path], columns: Collection[str] | None = None) -> "DataFrame":
    """Return the records of several studies as one table. paths: folders that a run wrote to, or .parquet files.

    columns: those that are read, where a file has them; None reads all.
    Raises TombolaError for a path without records, and for a column whose values are not what it means.
    """
    import pandas as pd
    from pyarrow.parquet import read_schema

    tables = []
    for path in paths:
        file = path / "records.parquet" if path.is_dir() else path
        if not file.is_file():
            raise TombolaError(f"{path} has no records (no {file.name}); give the folder that 'tombola run' wrote to")
        try:
            wanted = None if columns is None else [name for name in read_schema(file).names if name in columns]
            table = pd.read_parquet(file, columns=wanted)
        except (OSError, ValueError) as error:
            raise TombolaError(
                f"{file} is no table of records ({_short(error)}); 'tombola report DIR' writes a study's anew"
            ) from None
        if fault := _fault(table, [name for name in _NEEDED if columns is None or name in columns]):
            raise TombolaError(
                f"{file} is no table of records: {fault}; 'tombola report DIR' writes a study's anew (docs/records.md)"
            )
        tables.append(table)
    filled = [table for table in tables if len(table)] or tables[:1]  # an empty table would spoil the columns' types
    return filled[0] if len(filled) == 1 else pd.concat(filled, ignore_index=True)


def _fault(table: "DataFrame", needed: Sequence[str]) -> str:
    """Say what is wrong with the first column that is not as `RECORDS` describes it; empty if all are right."""
    if absent := [name for name in needed if name not in table]:
        return f"it has no column {absent[0]!r}"
    for name in [name for name in RECORDS if name in table] if len(table) else []:
        values = table[name].dropna()
        kind = "text" if "text" in RECORDS[name].unit else "number"
        if (odd := _odd(name, kind, values)) is not None:
            return f"column {name!r} has {_short(repr(odd))}, which is no {_expected(name, kind)}"
        if len(values) < len(table) and (name in _WHOLE or name == "density" or (kind == "text" and name != "variant")):
            return f"column {name!r} has no value in {len(table) - len(values)} of {len(table)} rows"
    return ""


def _expected(name: str, kind: str) -> str:
    if name in _WHOLE:
        return f"whole number of at least {_WHOLE[name]}"
    if name == "classes":
        return "number of at least 1"
    if name in _shares():
        return "share between 0 and 1"
    return "JSON mapping" if RECORDS[name].unit == "JSON text" else kind


def _odd(name: str, kind: str, values: "Series[Any]") -> Any:
    """Return the first value that is not what the column means, or None."""
    import pandas as pd

    if kind == "text":
        inner = (int, float) if name == "layer_density" else object
        as_json = RECORDS[name].unit == "JSON text"
        return next((v for v in values.unique() if not isinstance(v, str) or (as_json and not _is_mapping(v, inner))), None)
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return values.tolist()[0] if len(values) else None
    if name in _WHOLE:
        wrong = (values % 1 != 0) | (values < _WHOLE[name]) | (values.abs() == math.inf)
    elif name == "classes":
        wrong = values < 1
    elif name in _shares():
        wrong = (values < 0) | (values > 1) | ((values == 0) & (name == "density"))
    else:
        return None
    return values[wrong].tolist()[0] if wrong.any() else None


def _shares() -> set[str]:
    """Return the columns that are shares of a whole; a null's excess, of the same unit, may be below 0."""
    return {name for name in names("metric", "size", "calibration") if RECORDS[name].unit == "fraction"}


def _is_mapping(text: str, inner: type | tuple[type, ...]) -> bool:
    """Return whether a text is a JSON mapping whose values are of `inner`."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and all(isinstance(value, inner) for value in found.values())


def _short(text: object) -> str:
    """Return an error or a value in one line of bounded length."""
    line = " ".join(str(text).split())
    return line if len(line) <= 80 else f"{line[:60]} ... {line[-15:]}"
