"""Rows of a table in little room: column by column, and once what all rows have in common."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Ticket = dict[str, Any]
"""A row of the records: labels and numbers of an evaluated ticket."""


def pack(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows as JSON: their number, and each column as its one value or as a list. What a row lacks, and NaN, is null."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [_plain(row.get(name)) for row in rows] for name in names}
    return {
        "rows": len(rows),
        "columns": {
            name: {"all": column[0]} if all(value == column[0] for value in column) else {"each": column}
            for name, column in columns.items()
        },
    }


def unpack(packed: Mapping[str, Any]) -> list[Ticket]:
    """The rows; NaN where one has nothing."""
    count = packed["rows"]
    columns = {name: found.get("each") or [found["all"]] * count for name, found in packed["columns"].items()}
    return [{name: math.nan if column[i] is None else column[i] for name, column in columns.items()} for i in range(count)]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
