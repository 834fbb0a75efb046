"""Inputs and targets from the columns of a Hugging Face table."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from tombola.errors import TombolaError

from .images import Decoder
from .source import Table

_READ = 1000  # rows read together


def tables_of(
    splits: Mapping[str, Any], inputs: str | list[str] | None, target: str | None, decoder: Decoder
) -> tuple[dict[str, Table], list[str] | None]:
    """Return the table of each part, and the names of the classes (None for a regression).

    splits: part -> `datasets.Dataset`. Raises TombolaError for a column that is missing, ambiguous, or of a kind that is no
    input or target.
    """
    features = splits["train"].features
    for part, rows in splits.items():
        if rows.features.keys() != features.keys():
            raise TombolaError(
                f"data {decoder.name!r}: {part} has columns {', '.join(rows.features)}, train {', '.join(features)}; "
                "give all splits the same"
            )
    columns = _input_columns(features, inputs, decoder.name)
    target = _target_column(features, target, columns, decoder.name)
    targets, classes = _targets(splits, target, decoder.name)
    of_images = _kind(features[columns[0]]) == "image"
    reader, numbers = (_images, ()) if of_images else (_numbers, tuple(columns))
    tables = {p: Table(targets[p], reader(rows, p, columns, decoder), numbers) for p, rows in splits.items()}
    return tables, classes


def _kind(feature: Any) -> str:
    """Name the kind of a column's values in a word."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return "class"
    if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and "bytes" in feature):
        return "image"
    if isinstance(feature, datasets.Value):
        kinds = {"b": "binary", "s": "text", "l": "text" if "string" in feature.dtype else "binary"}
        if feature.dtype.startswith(("int", "uint", "bool")):
            return "whole numbers"
        if feature.dtype.startswith(("float", "double", "decimal")):
            return "numbers"
        return kinds.get(feature.dtype[0], feature.dtype) if feature.dtype != "null" else "nothing"
    if hasattr(feature, "feature") or hasattr(feature, "shape"):  # List, LargeList, Array2D to Array5D
        return "arrays"
    return type(feature).__name__.lower()


def _listed(features: Any) -> str:
    return ", ".join(f"{column} ({_kind(feature)})" for column, feature in features.items())


def _known(features: Any, column: str, argument: str, name: str) -> str:
    if column not in features:
        near = get_close_matches(column, features, 1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise TombolaError(f"data {name!r}: {argument} is {column!r}: {meant}the columns are {_listed(features)}")
    return column


def _input_columns(features: Any, inputs: str | list[str] | None, name: str) -> list[str]:
    columns = [inputs] if isinstance(inputs, str) else inputs
    columns = columns if columns is not None else [c for c, f in features.items() if _kind(f) == "image"]
    if not columns or (inputs is None and len(columns) > 1):
        raise TombolaError(
            f"data {name!r}: which column is the input? Set args.inputs to it, or to a list of columns of numbers; the "
            f"columns are {_listed(features)}"
        )
    kinds = [_kind(features[_known(features, column, "inputs", name)]) for column in columns]
    if kinds in (["image"], ["binary"], ["arrays"]) or set(kinds) <= {"numbers", "whole numbers"}:
        return columns
    bad = next(i for i, kind in enumerate(kinds) if len(columns) == 1 or kind not in ("numbers", "whole numbers"))
    mend = "images, arrays, or several columns of numbers can be inputs"
    if kinds[bad] == "text":
        mend = "turn text into numbers in a function of your own that returns a tombola.data.Dataset"
    raise TombolaError(f"data {name!r}: input column {columns[bad]!r} holds {kinds[bad]}; {mend}")


def _target_column(features: Any, target: str | None, inputs: list[str], name: str) -> str:
    columns = [target] if target is not None else [c for c, f in features.items() if _kind(f) == "class" and c not in inputs]
    if len(columns) != 1:
        raise TombolaError(f"data {name!r}: which column is the target? Set args.target; there are {_listed(features)}")
    kind = _kind(features[_known(features, columns[0], "target", name)])
    if kind not in ("class", "numbers", "whole numbers", "text") or columns[0] in inputs:
        why = "is an input, too" if columns[0] in inputs else f"holds {kind}"
        raise TombolaError(f"data {name!r}: target column {columns[0]!r} {why}; a target is a class, a number, or a word")
    return columns[0]


def _targets(splits: Mapping[str, Any], column: str, name: str) -> tuple[dict[str, Tensor], list[str] | None]:
    """Return classes [N], numbered in sorted order unless the column numbers them itself; or reals [N, 1]."""
    features = {part: rows.features[column] for part, rows in splits.items()}
    kinds = {part: _kind(feature) for part, feature in features.items()}
    alike = {kinds["train"]} | ({"numbers", "whole numbers"} if "numbers" in kinds["train"] else set())
    if other := next((part for part, kind in kinds.items() if kind not in alike), None):
        raise TombolaError(
            f"data {name!r}: target column {column!r} holds {kinds['train']} in train, {kinds[other]} in {other}; give all "
            "splits the same"
        )
    values = {part: rows.select_columns(column)[:][column] for part, rows in splits.items()}
    for part, some in values.items():
        if None in some:
            raise TombolaError(
                f"data {name!r}: row {some.index(None)} of {part} has no {column!r}; take it out of the source"
            )
    if kinds["train"] == "numbers":
        reals = {part: torch.tensor(some, dtype=torch.float32).view(-1, 1) for part, some in values.items()}
        for part, some in reals.items():
            _check_finite(some, 0, part, [column], name)
        return reals, None
    if kinds["train"] == "class":
        distinct = list(features["train"].names)
        for part, feature in features.items():  # a split may number the same names in another order
            own = dict(enumerate(feature.names))
            values[part] = [own.get(number, number) for number in values[part]]
    else:
        distinct = sorted(set(values["train"]))
    names, numbers = [str(value) for value in distinct], {value: i for i, value in enumerate(distinct)}
    for part, some in values.items():
        if strange := set(some) - numbers.keys():
            hidden = " (hidden labels?)" if -1 in strange else ""
            raise TombolaError(
                f"data {name!r}: {part} has the label {min(strange)!r}{hidden}, which is none of the {len(names)} classes "
                f"of train; name another split with args.{part}"
            )
    return {part: torch.tensor([numbers[v] for v in some]) for part, some in values.items()}, names


def _images(rows: Any, part: str, columns: list[str], decoder: Decoder) -> Any:
    import datasets

    (column,) = columns
    encoded = rows.select_columns(column).cast_column(column, datasets.Image(decode=False))

    def read(chosen: list[int]) -> Iterator[Tensor]:
        cells = (cell for batch in encoded.select(chosen).iter(_READ) for cell in batch[column])
        for row, cell in zip(chosen, cells, strict=True):
            path = (cell or {}).get("path")
            what = f"image {row} of {part}" + (f" ({path})" if path else "")
            yield decoder(what, _bytes(cell))

    return read


def _bytes(cell: Any) -> bytes | None:
    """Return an image's file, from the cell itself or from the path in it; None if it is missing."""
    if not cell or cell["bytes"] is not None or not cell["path"]:
        return cell["bytes"] if cell else None
    try:
        with open(cell["path"], "rb") as file:
            return file.read()
    except OSError:
        return None


def _numbers(rows: Any, part: str, columns: list[str], decoder: Decoder) -> Any:
    numeric = rows.select_columns(columns)

    def read(chosen: list[int]) -> Iterator[Tensor]:
        for at in range(0, len(chosen), _READ):
            batch = numeric.select(chosen[at : at + _READ])[:]
            for offset, cells in enumerate(zip(*(batch[column] for column in columns), strict=True)):
                row = chosen[at + offset]
                what = f"{columns[0]!r} in row {row} of {part}"
                try:
                    value = torch.tensor([float("nan") if c is None else c for c in cells], dtype=torch.float32)
                except (ValueError, TypeError):  # lists that differ in length, or words
                    raise TombolaError(
                        f"data {decoder.name!r}: {what} is no array of numbers; correct it or take the row out"
                    ) from None
                value = value[0] if value.ndim > 1 else value
                decoder.alike(what, value, "; inputs need one shape")
                _check_finite(value[None], row, part, columns, decoder.name)
                yield value

    return read


def _check_finite(values: Tensor, row: int, part: str, columns: list[str], name: str) -> None:
    wrong = (~values.isfinite()).nonzero()
    if len(wrong):
        at, column = int(wrong[0, 0]), columns[int(wrong[0, 1])] if len(columns) > 1 else columns[0]
        raise TombolaError(
            f"data {name!r}: {column!r} in row {row + at} of {part} is missing or not finite; fill it or take the row out"
        )
