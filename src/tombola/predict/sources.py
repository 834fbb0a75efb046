"""Inputs of `tombola predict` from files, in pieces of bounded memory: pictures, tables, arrays.

Legend: B examples of a piece.
"""

import errno
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from tombola.data.folder import ENDINGS
from tombola.data.huggingface import FORMATS
from tombola.data.images import Decoder
from tombola.data.signature import Signature
from tombola.errors import TombolaError

ARRAYS = (".npy", ".npz")
_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_LARGEST = 1 << 28  # bytes of a picture's file
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class Piece:
    """Some inputs in order."""

    names: list[str]
    """Name of each input: a file's path, within the folder that was given, or a row's number from 0 on."""
    inputs: Tensor
    """Stored inputs [B, ...], before normalisation."""
    labels: list[str] | None = None
    """Names of the true classes, by the subfolders that pictures are in."""


@dataclass(frozen=True)
class Source:
    """Inputs of a file, a folder or a data set."""

    total: int | None
    """Number of inputs; None where only reading tells."""
    pieces: Callable[[int], Iterator[Piece]]
    """Function that yields the inputs in pieces of at most a given size."""


def open_source(given: str, signature: Signature, *, resize: bool = False, split: str | None = None) -> Source:
    """Return the inputs at `given`, to be read as the signature says.

    given: a picture; a folder of pictures, with subfolders too; a table (.parquet, .arrow, .csv, .tsv, .json, .jsonl) or a
        folder of tables of one kind; an array (.npy, .npz); or OWNER/NAME on the Hugging Face hub.
    resize: whether pictures are resized to the ticket's size: shorter side first, then the middle is cut out.
    split: of a data set on the hub.

    Raises TombolaError for anything else, and for an empty folder. Errors of single inputs come while pieces are read.
    """
    here = Path(given).expanduser()
    kind = here.suffix.lower()
    if here.is_dir():
        return _folder(here, signature, resize)
    if not here.exists():
        if _HUB.fullmatch(given) and kind not in (*ENDINGS, *FORMATS, *ARRAYS):
            from .tables import hub

            return hub(given, split, signature, _decoder(signature, resize))
        raise TombolaError(f"there is no {given} (seen from {Path.cwd()}); give a file, a folder, or OWNER/NAME on the hub")
    if not here.is_file():
        raise TombolaError(f"{given} is no plain file: a pipe or a device may never end; write it to a file first")
    if kind in ARRAYS:
        from .arrays import array

        return array(here, signature)
    if kind in ENDINGS:
        return _pictures([here], None, signature, resize)
    if kind in FORMATS:
        from .tables import table

        return table([here], signature, _decoder(signature, resize))
    known = ", ".join(sorted({*ENDINGS, *FORMATS, *ARRAYS}))
    raise TombolaError(f"{given} is of no known kind ({kind or 'no ending'}); give one of {known}")


def picture_at(file: Path) -> bytes:
    """Return the bytes of a picture. Raises OSError for a pipe or a device, which may never end, and for over 256 MB."""
    if not file.is_file():
        raise OSError(errno.EINVAL, "no plain file")
    if file.stat().st_size > _LARGEST:
        raise OSError(errno.EFBIG, "larger than 256 MB")
    return file.read_bytes()


def stacked(names: Iterator[tuple[str, Tensor, str | None]], size: int) -> Iterator[Piece]:
    """Yield pieces of at most `size` inputs from (name, input, true class) of each."""
    while some := list(islice(names, size)):
        labels = [label for _, _, label in some]
        yield Piece(
            [name for name, _, _ in some],
            torch.stack([value for _, value, _ in some]),
            None if None in labels else labels,  # type: ignore[arg-type]
        )


def _folder(here: Path, signature: Signature, resize: bool) -> Source:
    files = [f for f in sorted(here.rglob("*")) if f.is_file() and not f.name.startswith(".")]
    pictures = [f for f in files if f.suffix.lower() in ENDINGS]
    if pictures:
        return _pictures(pictures, here, signature, resize)
    tables = [f for f in files if f.suffix.lower() in FORMATS]
    if not tables:
        raise TombolaError(f"folder {here} has no pictures ({', '.join(sorted(ENDINGS))}) and no tables; check the path")
    if len(kinds := {FORMATS[f.suffix.lower()] for f in tables}) > 1:
        raise TombolaError(f"folder {here} has tables of several kinds ({', '.join(sorted(kinds))}); give one of them")
    from .tables import table

    return table(tables, signature, _decoder(signature, resize))


def _pictures(files: list[Path], root: Path | None, signature: Signature, resize: bool) -> Source:
    decode = _decoder(signature, resize)
    labels = [None] * len(files) if root is None else _labels(files, root, signature)

    def read() -> Iterator[tuple[str, Tensor, str | None]]:
        for file, label in zip(files, labels, strict=True):
            try:
                data = picture_at(file)
            except OSError as error:
                raise TombolaError(f"{file} can't be read: {error.strerror}; check its permissions or take it out") from None
            yield str(file.relative_to(root) if root else file), decode(str(file), data), label

    return Source(len(files), lambda size: stacked(read(), size))


def _labels(files: list[Path], root: Path, signature: Signature) -> list[str | None]:
    """Return the true class of each file, by the subfolder of `root` that it is in; None where those are no classes.

    Raises TombolaError where some subfolders are classes and another is not.
    """
    folders = [file.relative_to(root).parts[0] if file.parent != root else None for file in files]
    named = {name for name in folders if name is not None}
    known = named & set(signature.classes)
    if not known:
        return [None] * len(files)
    if strange := sorted(named - known):
        raise TombolaError(
            f"folder {root / strange[0]} is none of the ticket's classes, as {sorted(known)[0]!r} beside it is; rename it, "
            f"or move its pictures to where no folder is a class ({', '.join(signature.classes[:10])})"
        )
    return [None] * len(files) if None in folders else folders


def _decoder(signature: Signature, resize: bool) -> Callable[[str, bytes | None], Tensor]:
    """Return a function from a picture's name and bytes to its pixels, uint8 [C, H, W], decoded as in training.

    It raises TombolaError for a ticket that takes no pictures, and for one that is unreadable, transparent or of another
    size. Gray pictures become colour and the other way round, as the ticket needs.
    """
    shape = signature.shape

    def decode(name: str, data: bytes | None) -> Tensor:
        if len(shape) != 3 or shape[0] not in _MODES or not (signature.dtype == "uint8" or signature.unit):
            raise TombolaError(
                f"{name} is a picture, and the ticket does not say how pictures become its inputs of shape {list(shape)}; "
                "give an array (.npy) of these, or save the ticket by tombola.describe"
            )
        side = shape[1] * signature.pool if resize else signature.size
        if resize and shape[1] != shape[2]:
            raise TombolaError(f"the ticket takes pictures of {shape[2]}x{shape[1]}, no squares; resize {name} yourself")
        decoder = Decoder("", _MODES[shape[0]], side, signature.pool, opaque=True)
        try:
            pixels = decoder(name, data)
        except TombolaError as error:
            raise TombolaError(str(error).removeprefix("data '': ")) from None
        if tuple(pixels.shape) != shape:
            height, width = (s * signature.pool for s in pixels.shape[1:])
            wanted = f"{shape[2] * signature.pool}x{shape[1] * signature.pool}"
            raise TombolaError(
                f"{name} is {width}x{height} pixels, the ticket takes {wanted}; resize it, or give --resize to cut a square"
            )
        return pixels

    return decode
