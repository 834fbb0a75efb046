"""Steps common to all sources of examples: from tables of undecoded splits to stored data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from tombola.errors import TombolaError

from .cache import SPLITS, Decoded, progress
from .choose import check_classes, hold_out, subset
from .images import Decoder
from .normalise import normalise_of


@dataclass(frozen=True)
class Table:
    """Undecoded split of a source."""

    targets: Tensor
    """Classes [N], or reals [N, 1]."""
    read: Callable[[list[int]], Iterator[Tensor]]
    """Function that yields the inputs of some rows: uint8 images [C, H, W] or float32 numbers."""
    columns: tuple[str, ...] = ()
    """Columns of numbers that are the inputs."""


@dataclass(frozen=True)
class Options:
    """Options of every source. Raises TombolaError for values out of bounds."""

    name: str
    """Name of the data, for errors."""
    validation: str | int
    """Name of a split, or number of training examples to hold out."""
    test: str | int
    subset: int | None
    subset_test: int | None
    normalise: Any

    def __post_init__(self) -> None:
        check_numbers(self.name, subset=self.subset, subset_test=self.subset_test)
        check_parts(self.name, validation=self.validation, test=self.test)

    def named(self, train: str) -> dict[str, str]:
        """Return the parts that are whole splits of the source, with these splits' names."""
        parts = {"train": train, "validation": self.validation, "test": self.test}
        return {part: name for part, name in parts.items() if isinstance(name, str)}


def check_numbers(name: str, **values: Any) -> None:
    """Raise TombolaError for a value that is neither None nor a whole number of at least 1."""
    for key, value in values.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise TombolaError(f"data {name!r}: {key} is {value!r}; it must be a whole number, at least 1")


def check_parts(name: str, **values: Any) -> None:
    """Raise TombolaError for a value that is neither the name of a split nor a number of examples."""
    for key, value in values.items():
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0 and key != "train"
        if not (whole or (isinstance(value, str) and value)):
            count = "" if key == "train" else " or a whole number of examples to hold out"
            raise TombolaError(f"data {name!r}: {key} is {value!r}; give the name of a split{count}")


def decoder_of(name: str, size: int | None, pool: int, mode: str | None) -> Decoder:
    """Return the decoder. Raises TombolaError for values out of bounds."""
    check_numbers(name, size=size, pool=pool)
    if mode not in (None, "RGB", "L"):
        raise TombolaError(f"data {name!r}: mode is {mode!r}; it must be RGB or L")
    return Decoder(name, mode, size, pool)


def assemble(tables: Mapping[str, Table], classes: Sequence[str] | None, options: Options, decoder: Decoder) -> Decoded:
    """Draw held-out parts and subsets of the tables (train and, where named, the others), and decode the rows.

    The options' name is that of the draws, and with the quality of its JPEGs of the data. classes: None for a regression.
    """
    name = options.name
    for part, table in tables.items():
        if not len(table.targets):
            raise TombolaError(f"data {name!r}: the {part} split is empty; name another with args.{part}")
    of = {part: part if part in tables else "train" for part in SPLITS}  # the table that a part's rows are of
    rows = {part: torch.arange(len(table.targets)) for part, table in tables.items()}
    for part, count in (("test", options.test), ("validation", options.validation)):
        if part not in tables:
            assert isinstance(count, int)
            rows["train"], rows[part] = hold_out(tables["train"].targets, rows["train"], count, part, name)
    if not len(rows["test"]):
        raise TombolaError(f"data {name!r}: test is 0; give the name of a split or the number of examples to hold out")
    rows["train"] = subset(tables["train"].targets, rows["train"], options.subset, "subset", name)
    rows["test"] = subset(tables[of["test"]].targets, rows["test"], options.subset_test, "subset_test", name)
    targets = {part: tables[of[part]].targets[rows[part]] for part in SPLITS}
    if classes is not None:
        check_classes(targets["train"], list(classes), name)

    def inputs() -> Iterator[Tensor]:
        with progress(sum(map(len, targets.values())), f"decoding {name}") as step:
            for example in chain.from_iterable(tables[of[part]].read(rows[part].tolist()) for part in SPLITS):
                yield example
                step()

    def finish(train: Tensor) -> tuple[str, Any]:
        return called(name, decoder.qualities), normalise_of(options.normalise, train, f"data {name!r}")

    columns = tables["train"].columns
    decoding = {"columns": columns} if columns else {"size": decoder.size, "pool": decoder.pool}
    return Decoded(targets, inputs(), finish, tuple(classes or ()), decoding)


def called(name: str, qualities: set[int | None]) -> str:
    """Return the data's name in tables, with the quality if all images are JPEGs of one: they are not the lossless ones."""
    (quality,) = qualities if len(qualities) == 1 else (None,)
    suffix = f"-jpeg{quality}"
    return name if quality is None or name.endswith(suffix) else name + suffix
