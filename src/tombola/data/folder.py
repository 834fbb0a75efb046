"""Images from a folder with one subfolder a class, within train/ and test/ or at the top."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tombola.errors import TombolaError

from .cache import Decoded, cached, identity_of
from .dataset import Dataset
from .images import Decoder
from .source import Options, Table, assemble, decoder_of

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
"""Suffixes of image files; other files are ignored."""

_FOLDERS = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test", "testing")}


def folder(
    path: str,
    test: str | int = "test",
    validation: str | int = 0,
    subset: int | None = None,
    subset_test: int | None = None,
    size: int | None = None,
    pool: int = 1,
    mode: str | None = None,
    normalise: Any = "auto",
) -> Dataset:
    """Return the images below `path`, in one subfolder a class: path/train/CLASS/*, path/test/CLASS/*, or path/CLASS/*.

    test, validation: a subfolder's name, or how many training images to hold out. The rest is as in `huggingface`.
    """
    here = Path(path).expanduser()
    if not here.is_dir():
        raise TombolaError(f"there is no folder {path} (seen from {Path.cwd()}); check the path")
    title = here.resolve().name
    decoder, options = decoder_of(title, size, pool, mode), Options(title, validation, test, subset, subset_test, normalise)
    train = _part(here, "train")
    found = {"train": _classes(train or here, title)}
    for part, name in options.named("train").items():
        if part != "train":
            there = here / name if (here / name).is_dir() else _part(here, name)
            if there is None or train is None:
                missing = f"no folder {name!r}" if train else "no folder 'train'"
                raise TombolaError(
                    f"data {title!r}: {path} has {missing}; set args.{part} to the number of images to hold out of train"
                )
            found[part] = _classes(there, title)
    files = [[part, *identity_of(f)] for part in found for images in found[part].values() for f in images]
    arguments = [title, test, validation, subset, subset_test, size, pool, mode, normalise]

    def decode(space: Path) -> Decoded:
        names = list(found["train"])
        tables = {part: _table(part, classes, names, decoder) for part, classes in found.items()}
        return assemble(tables, names, options, decoder)

    return cached(["folder", str(here.resolve()), files, arguments], decode)


def _part(here: Path, part: str) -> Path | None:
    return next((here / name for name in _FOLDERS.get(part, ()) if (here / name).is_dir()), None)


def _classes(here: Path, title: str) -> dict[str, list[Path]]:
    """Return the images of each class; classes and images are sorted by name."""
    folders = [f for f in sorted(here.iterdir()) if f.is_dir() and not f.name.startswith(".")]
    found = {f.name: sorted(_images_in(f)) for f in folders}
    if not found:
        raise TombolaError(
            f"data {title!r}: {here} has no subfolders; put the images of each class into a folder of its own"
        )
    empty = next((name for name, images in found.items() if not images), None)
    if empty is not None:
        raise TombolaError(f"data {title!r}: class {empty!r} has no images in {here / empty}; add some or delete the folder")
    return found


def _images_in(folder: Path) -> Iterator[Path]:
    """Yield the images below a folder and below the folders that it links to, each folder once."""
    seen: set[str] = set()
    for here, below, files in os.walk(folder, followlinks=True):
        if (own := os.path.realpath(here)) in seen:
            below.clear()
        else:
            seen.add(own)
            below.sort()
            yield from (image for name in files if _is_image(image := Path(here, name)))


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS and not file.name.startswith(".")


def _table(part: str, classes: dict[str, list[Path]], names: list[str], decoder: Decoder) -> Table:
    strange = sorted(classes.keys() - set(names))
    if strange:
        raise TombolaError(f"data {decoder.name!r}: class {strange[0]!r} is in {part} but not in train; add images there")
    files = [file for images in classes.values() for file in images]
    targets = torch.tensor([names.index(name) for name, images in classes.items() for _ in images])

    def read(rows: list[int]) -> Iterator[Tensor]:
        for row in rows:
            try:
                data = files[row].read_bytes()
            except OSError:
                data = None
            yield decoder(str(files[row]), data)

    return Table(targets, read)
