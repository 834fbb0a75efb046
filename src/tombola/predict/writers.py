"""Writers of predictions, piece by piece: csv, parquet, json."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tombola.errors import TombolaError
from tombola.files import written_aside

Columns = Mapping[str, list[Any]]
"""Column name -> values, the same columns in each piece."""
Write = Callable[[Columns], None]


@contextmanager
def writing(path: Path) -> Iterator[Write]:
    """Give a function that appends a piece to the file, whose ending says the format; it is in place whole or not at all.

    Raises TombolaError for another ending, and where the file can't be written.
    """
    check_ending(path)
    try:
        with written_aside(path) as aside, WRITERS[path.suffix.lower()](aside) as write:
            yield write
    except OSError as error:
        raise TombolaError(f"cannot write {path}: {error.strerror or error}; choose another file with --out") from None


def check_ending(path: Path) -> None:
    """Raise TombolaError for a file whose ending is of no writer."""
    if path.suffix.lower() not in WRITERS:
        raise TombolaError(f"--out {path}: predictions are written as {', '.join(WRITERS)}; give such a name")


def rows_of(columns: Columns) -> Iterator[dict[str, Any]]:
    """Yield the rows of a piece."""
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


@contextmanager
def json_array(file: TextIO) -> Iterator[Write]:
    """Give a function that appends a piece to one JSON array of objects, a line each."""
    first = True

    def write(columns: Columns) -> None:
        nonlocal first
        for row in rows_of(columns):
            file.write(("" if first else ",") + "\n" + json.dumps(row))
            first = False

    file.write("[")
    yield write
    file.write("\n]\n")


@contextmanager
def _csv(path: Path) -> Iterator[Write]:
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        first = True

        def write(columns: Columns) -> None:
            nonlocal first
            if first:
                lines.writerow(columns)
            first = False
            lines.writerows(zip(*columns.values(), strict=True))

        yield write


@contextmanager
def _json(path: Path) -> Iterator[Write]:
    with path.open("w") as file, json_array(file) as write:
        yield write


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    import pyarrow
    from pyarrow import parquet

    made: list[Any] = []

    def write(columns: Columns) -> None:
        table = pyarrow.table(dict(columns))
        if not made:
            made.append(parquet.ParquetWriter(path, table.schema))
        made[0].write_table(table)

    try:
        yield write
    finally:
        for writer in made:
            writer.close()


WRITERS: dict[str, Callable[[Path], Any]] = {".csv": _csv, ".parquet": _parquet, ".json": _json}
