"""Inputs from tables, read as a stream by `datasets`: parquet, arrow, csv, json, and data sets of the Hugging Face hub."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tombola.data.huggingface import FORMATS
from tombola.data.signature import Signature
from tombola.errors import TombolaError, is_out_of_memory

from .sources import Source, picture_at, stacked

_ROWS = 1000  # rows read together
Decode = Callable[[str, bytes | None], Tensor]


def table(files: list[Path], signature: Signature, decode: Decode) -> Source:
    """Return the inputs in the rows of files of one kind, in order."""
    import datasets

    kind = FORMATS[files[0].suffix.lower()]
    more = {"sep": "\t"} if files[0].suffix.lower() == ".tsv" else {}
    where = str(files[0]) if len(files) == 1 else str(files[0].parent)

    def load(space: str) -> Any:
        paths = [str(file.resolve()) for file in files]
        return datasets.load_dataset(kind, data_files=paths, split="train", streaming=True, cache_dir=space, **more)

    return Source(None, lambda size: stacked(_rows(load, where, signature, decode), size))


def hub(name: str, split: str | None, signature: Signature, decode: Decode) -> Source:
    """Return the inputs of a data set on the hub. split: by default `test`, or its only one."""
    import datasets

    def load(space: str) -> Any:
        found = datasets.load_dataset(name, streaming=True)
        chosen = split or ("test" if "test" in found else next(iter(found)))
        if chosen not in found:
            raise TombolaError(f"{name} has no split {chosen!r}; give one of {', '.join(found)} by --split")
        return found[chosen]

    return Source(None, lambda size: stacked(_rows(load, name, signature, decode), size))


def _rows(
    load: Callable[[str], Any], where: str, signature: Signature, decode: Decode
) -> Iterator[tuple[str, Tensor, str | None]]:
    """Yield number and input of each row."""
    with tempfile.TemporaryDirectory() as space, _silent():
        read, count = _reader(None, {}, signature, decode), 0
        try:
            rows = _undecoded(load(space))
            for batch in rows.iter(_ROWS):
                if count == 0:
                    read = _reader(where, batch, signature, decode)
                for i in range(len(next(iter(batch.values()), []))):
                    yield str(count), read({column: cells[i] for column, cells in batch.items()}, count), None
                    count += 1
        except (TombolaError, GeneratorExit):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise TombolaError(
                f"{where} can't be read: {_in_short(error)}; check the file, or the name on the hub"
            ) from error
        if not count:
            raise TombolaError(f"{where} has no rows; give at least one")


@contextmanager
def _silent() -> Iterator[None]:
    """Leave out what `datasets` logs of a file that it cannot read: the error says it."""
    logger = logging.getLogger("datasets")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _undecoded(rows: Any) -> Any:
    """Return a stream whose pictures stay files, so that they are decoded as in training."""
    import datasets

    for column, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows


def _reader(
    where: str | None, columns: Mapping[str, Any], signature: Signature, decode: Decode
) -> Callable[[Mapping[str, Any], int], Tensor]:
    """Return a function from a row and its number to the input. Raises TombolaError for columns that do not fit."""
    if where is None:  # nothing is read yet
        return lambda row, number: torch.empty(0)
    firsts = {c: next((cell for cell in cells if cell is not None), None) for c, cells in columns.items()}
    pictures = [c for c, cell in firsts.items() if isinstance(cell, dict) and {"bytes", "path"} & cell.keys()]
    if pictures and not signature.columns:
        return lambda row, number: decode(f"{pictures[0]!r} in row {number}", _bytes(row[pictures[0]]))
    names = list(signature.columns) or [c for c, cell in firsts.items() if type(cell) in (int, float, list)]
    if missing := [name for name in names if name not in columns]:
        raise TombolaError(
            f"{where} lacks the column {missing[0]!r}"
            + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else "")
            + f"; the ticket takes {', '.join(names)}, the file has {', '.join(columns)}"
        )
    if len(names) != 1 and (len(signature.shape) != 1 or len(names) != signature.shape[0]):
        raise TombolaError(
            f"{where} has {len(names)} columns of numbers ({', '.join(names[:8])}{', ...' * (len(names) > 8)}); the ticket "
            f"takes inputs of shape {list(signature.shape)}"
        )
    return lambda row, number: _numbers([row[name] for name in names], f"row {number} of {where}", signature)


def _numbers(cells: list[Any], what: str, signature: Signature) -> Tensor:
    cells = cells[0] if len(cells) == 1 and isinstance(cells[0], list) else cells
    try:
        value = torch.tensor([float("nan") if c is None else c for c in cells])
    except (TypeError, ValueError):
        raise TombolaError(f"{what} holds something that is no number; correct it or take it out") from None
    if tuple(value.shape) != signature.shape:
        raise TombolaError(f"{what} has an input of shape {list(value.shape)}; the ticket takes {list(signature.shape)}")
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise TombolaError(f"{what} has a value that is missing, NaN or infinite; fill it or take the row out")
    found = value.to(getattr(torch, signature.dtype))
    if not found.is_floating_point() and not torch.equal(found.double(), value.double()):
        raise TombolaError(
            f"{what} has {value.min():g} to {value.max():g}; the ticket takes whole numbers ({signature.dtype})"
        )
    return found


def _bytes(cell: Mapping[str, Any]) -> bytes | None:
    """Return a picture's file, from the cell itself or from the path in it; None if it is missing."""
    if cell is None or cell.get("bytes") is not None or not cell.get("path"):
        return None if cell is None else cell.get("bytes")
    try:
        return picture_at(Path(cell["path"]))
    except (OSError, ValueError, TypeError):  # a path may be anything
        return None


def _in_short(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}{'...' if len(text) > 200 else ''}"
