"""Hugging Face data sets, by name on the hub or from local files of the same layout."""

import glob
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tombola.errors import TombolaError, is_out_of_memory

from .cache import Decoded, cached, identity_of
from .columns import tables_of
from .dataset import Dataset
from .source import Options, assemble, check_parts, decoder_of

FORMATS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
}
"""Formats of local files, by suffix."""

_SPLITS = {
    "train": "train|training",
    "validation": "validation|valid|val|dev",
    "test": "test|testing|eval|evaluation",
}

_ABOUT = ("dataset_info", "dataset_dict", "state.json", "package.json")
"""Beginnings of the names of files that describe a folder's data."""


def huggingface(
    path: str,
    name: str | None = None,
    train: str = "train",
    test: str | int = "test",
    validation: str | int = 0,
    inputs: str | list[str] | None = None,
    target: str | None = None,
    subset: int | None = None,
    subset_test: int | None = None,
    size: int | None = None,
    pool: int = 1,
    mode: str | None = None,
    normalise: Any = "auto",
    revision: str | None = None,
) -> Dataset:
    """Return the data set `path`: a name on the hub, a folder, a file, or a pattern of files (parquet, arrow, csv, json).

    name, revision: of a configuration and version on the hub. train, test, validation: splits there, or how many training
    examples to hold out. inputs, target: columns, where they are not the only image and the only class label. subset,
    subset_test: how many examples to keep, classes in proportion. size: resize to squares. pool: average over squares of
    pixels. mode: RGB or L, to convert. normalise: auto, imagenet, own, none, or mean and std.
    """
    files = _local(path)
    title = _title(path, files) + (f"-{name}" if name else "")
    check_parts(title, train=train)
    decoder, options = decoder_of(title, size, pool, mode), Options(title, validation, test, subset, subset_test, normalise)
    where: list[Any] = [identity_of(f) for f in files] or [path, revision]
    arguments = [title, name, train, test, validation, inputs, target, subset, subset_test, size, pool, mode, normalise]

    def decode(space: Path) -> Decoded:
        with _quiet():
            splits = _from_files(path, files, target, space / "copy") if files else _from_hub(path, name, revision)
            wanted = options.named(train)
            for part, split in wanted.items():
                if split not in splits:
                    held = "" if part == "train" else " or to the number of training examples to hold out"
                    raise TombolaError(
                        f"data {title!r}: there is no split {split!r}; set args.{part} to one of {', '.join(splits)}{held}"
                    )
            parts = {part: splits[split]() for part, split in wanted.items()}
            tables, classes = tables_of(parts, inputs, target, decoder)
        return assemble(tables, classes, options, decoder)

    return cached(["huggingface", where, arguments], decode)


def _local(path: str) -> list[Path]:
    """Return the files at `path`, sorted; none if it is a name on the hub. Raises TombolaError if they do not exist."""
    here = Path(path).expanduser()
    if here.is_file():
        found = [here]
    elif here.is_dir():
        found = [f for f in here.rglob("*") if f.suffix.lower() in FORMATS and not f.name.startswith((".", *_ABOUT))]
        if not found:
            raise TombolaError(
                f"folder {path} has no data files ({', '.join(FORMATS)}); for a folder of images use data.name: folder"
            )
    else:
        found = [Path(f) for f in glob.glob(str(here), recursive=True) if Path(f).is_file()]
        if not found and not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", path):
            raise TombolaError(
                f"there is no {path} (seen from {Path.cwd()}); give a file, a folder, a pattern, or a hub name"
            )
        if not found and here.suffix.lower() in FORMATS:
            raise TombolaError(f"there is no file {path} (seen from {Path.cwd()}); check the path")
    formats = {FORMATS.get(f.suffix.lower()) for f in found}
    if found and (None in formats or len(formats) > 1):
        endings = ", ".join(sorted({f.suffix or f.name for f in found}))
        raise TombolaError(f"{path} is of files {endings}; give files of one kind, of {', '.join(FORMATS)}")
    return sorted(found)


def _title(path: str, files: list[Path]) -> str:
    """Return the name of the data: the hub's name without its owner, the folder of files, or the name of a single file."""
    if not files:
        return path.rpartition("/")[2]
    here = Path(path).expanduser()
    if here.is_dir():
        return here.resolve().name
    if here.is_file() and not _split_in(here.stem):
        return here.stem
    folder = files[0].resolve().parent
    return folder.parent.name if folder.name == "data" or _split_in(folder.name) else folder.name


def _split_in(text: str) -> str | None:
    """Return the split in a file's or folder's name: the start of a shard's name, or a word in it, as the hub reads it."""
    if shard := re.match(r"([A-Za-z_]\w*)-\d{5}-of-\d{5}", text):
        return shard[1]
    for split, words in _SPLITS.items():
        if re.search(rf"(?<![a-z])({words})(?![a-z])", text.lower()):
            return split
    return None


def _from_files(path: str, files: list[Path], target: str | None, space: Path) -> Mapping[str, Callable[[], Any]]:
    """Return a function for each split that reads its `datasets.Dataset`, through a copy in `space`.

    target: its words in a CSV file are taken as they are: there NA is a class, and only an empty cell is missing.
    """
    import datasets

    here = Path(path).expanduser()

    def read(kind: str, some: list[str]) -> Any:
        escaped = [glob.escape(file) for file in some]  # the library takes every path as a pattern
        load = partial(datasets.load_dataset, kind, data_files=escaped, split="train", cache_dir=str(space))
        load = partial(load, sep="\t") if some[0].lower().endswith(".tsv") else load
        try:
            rows: Any = load()
            found = rows[target] if kind == "csv" and target in rows.features else []
            if None in found and all(cell is None or isinstance(cell, str) for cell in found):
                literal: Any = load(keep_default_na=False, na_values=[""])
                rows = rows.remove_columns(target).add_column(target, literal[target])
            return rows
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise TombolaError(f"{path} can't be read: {_in_short(error)}; check the files") from error

    try:
        if here.is_dir() and ((here / "dataset_dict.json").is_file() or (here / "state.json").is_file()):
            saved = datasets.load_from_disk(str(here))
            return _loaded(saved if isinstance(saved, dict) else {"train": saved})
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise TombolaError(f"{path} can't be read: {_in_short(error)}; check the files") from error
    by_split: dict[str, list[str]] = {}
    for file in files:
        split = _split_in(file.stem) or (_split_in(file.parent.name) if len(files) > 1 else None)
        by_split.setdefault(split or "train", []).append(str(file.resolve()))
    kind = FORMATS[files[0].suffix.lower()]
    return {split: partial(read, kind, some) for split, some in by_split.items()}


def _loaded(splits: Mapping[str, Any]) -> Mapping[str, Callable[[], Any]]:
    return {split: partial(splits.__getitem__, split) for split in splits}


def _from_hub(path: str, name: str | None, revision: str | None) -> Mapping[str, Callable[[], Any]]:
    import datasets

    try:
        return _loaded(datasets.load_dataset(path, name, revision=revision))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise TombolaError(
            f"data {path!r} is no local path, and can't be had from the Hugging Face hub: {_in_short(error)}; check the "
            "name and the connection, or give files of it on this machine: --set data.args.path=FOLDER"
        ) from error


def _in_short(error: BaseException) -> str:
    """Return the error's first cause in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}{'...' if len(text) > 200 else ''}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars of `datasets` meanwhile."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
