"""Rows of a table in little room: what all have in common once, the rest column by column."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Ticket = dict[str, Any]
"""A row of the records: labels and numbers of an evaluated ticket."""


def pack(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows as JSON: {rows, same, each}. What a row lacks, and NaN, is null."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [_plain(row.get(name)) for row in rows] for name in names}
    alike = {name: all(value == column[0] for value in column) for name, column in columns.items()}
    return {
        "rows": len(rows),
        "same": {name: column[0] for name, column in columns.items() if alike[name]},
        "each": {name: column for name, column in columns.items() if not alike[name]},
    }


def unpack(packed: Mapping[str, Any]) -> list[Ticket]:
    """The rows; NaN where one has nothing."""
    every = [packed["same"] | {name: column[i] for name, column in packed["each"].items()} for i in range(packed["rows"])]
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in every]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
