"""Tables of records, read from files."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tombola.errors import TombolaError

if TYPE_CHECKING:
    from pandas import DataFrame


def read(paths: Sequence[Path], columns: Collection[str] | None = None) -> "DataFrame":
    """Return the records of several studies as one table. paths: folders that a run wrote to, or .parquet files.

    columns: those that are read, where a file has them; None reads all. Raises TombolaError for a path without records.
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
            tables.append(pd.read_parquet(file, columns=wanted))
        except (OSError, ValueError) as error:
            raise TombolaError(f"{file} is no table of records ({' '.join(str(error).split())}); write it anew") from None
    filled = [table for table in tables if len(table)] or tables[:1]  # an empty table would spoil the columns' types
    return filled[0] if len(filled) == 1 else pd.concat(filled, ignore_index=True)
