"""Decoded data on disk: one safetensors file a data set, written once, then mapped into memory.

The file's name is a hash of the data's source and decoding. It is written aside and renamed into place.
"""

import hashlib
import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tombola.errors import TombolaError

from .dataset import Dataset, digest_of
from .normalise import Normalise

FORMAT = 3
"""Version of the decoding: when it is raised, older files are not read."""
SPLITS = ("train", "validation", "test")

_WRITTEN = 256  # examples stacked for one write
_TYPES = {torch.uint8: "U8", torch.float32: "F32", torch.int64: "I64"}


@dataclass(frozen=True)
class Decoded:
    """Examples of a source, to be stored; all splits together, so that each shape is checked against all others."""

    targets: dict[str, Tensor]
    """Targets of each of `SPLITS`."""
    inputs: Iterable[Tensor]
    """Inputs [...] of every example in the order of the splits, all of one shape and dtype."""
    finish: Callable[[Tensor], tuple[str, Normalise]]
    """Function from the stored train inputs to the name of the data in tables and its normalisation."""
    classes: tuple[str, ...] = ()
    """Names of the classes, and below it the decoding, as `Dataset` has them."""
    decoding: Mapping[str, Any] = field(default_factory=dict)


def root() -> Path:
    """Return $TOMBOLA_CACHE, or ~/.cache/tombola."""
    return Path(os.environ.get("TOMBOLA_CACHE") or Path.home() / ".cache" / "tombola")


def cached(identity: Any, decode: Callable[[Path], Decoded]) -> Dataset:
    """Return the data set of that identity (JSON), memory-mapped; it is decoded and written first if the cache lacks it.

    decode: takes a folder for temporary files. Raises TombolaError where the cache can't be written.
    """
    from filelock import FileLock  # here, so that data in memory need torch alone

    key = hashlib.sha256(json.dumps([FORMAT, identity], sort_keys=True).encode()).hexdigest()[:24]
    path = root() / f"{key}.safetensors"
    try:
        if (found := _mapped(path)) is not None:
            return found
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = _mapped(path)  # another process may have been faster
            if found is None:
                aside = path.with_suffix(".part")
                shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
                aside.mkdir()
                try:
                    _write(aside / "data", decode(aside))
                    (aside / "data").replace(path)
                finally:
                    shutil.rmtree(aside, ignore_errors=True)
                found = _mapped(path)
    except OSError as error:
        raise TombolaError(
            f"cannot keep decoded data in {path.parent}: {error.strerror or error}; free space, or set "
            "TOMBOLA_CACHE to another folder"
        ) from None
    assert found is not None
    return found


def identity_of(file: Path) -> list[Any]:
    """Return path, size and time of a source's file: together they change whenever the file does."""
    try:
        about = file.stat()
    except OSError as error:  # a link to nothing
        raise TombolaError(f"{file} can't be read ({error.strerror}); repair it or take it out") from None
    return [str(file.resolve()), about.st_size, about.st_mtime_ns]


def _mapped(path: Path) -> Dataset | None:
    """Return the data in a file, whose tensors are views of the mapped file; None if it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["tombola"])
            train, validation, test = ((file.get_tensor(f"{s}.inputs"), file.get_tensor(f"{s}.targets")) for s in SPLITS)
        mean, std = (tuple(about["normalise"][part]) for part in ("mean", "std"))
        normalise = Normalise(mean, std, about["normalise"]["scale"])
        decoding = {name: tuple(v) if isinstance(v, list) else v for name, v in about["decoding"].items()}
        return Dataset(about["name"], train, validation, test, normalise, about["digest"], tuple(about["classes"]), decoding)
    except TombolaError:  # of data that cannot be used, not of a damaged file
        raise
    except (FileNotFoundError, SafetensorError, KeyError, ValueError):
        return None


def _write(path: Path, data: Decoded) -> None:
    """Write targets, inputs, and last the header, which holds the data's hash, into the space left for it."""
    stacks = _stacks(data.inputs)
    first = next(stacks)
    told = {"classes": data.classes, "decoding": data.decoding}
    # normalisation takes up to 50 bytes a channel; quotes within the JSON are escaped
    room = 4096 + 64 * first.shape[1] + 2 * len(json.dumps(told))
    with path.open("wb") as file:
        file.write(b" " * (8 + room))
        for split in SPLITS:
            _put(file, data.targets[split])
        for stacked in itertools.chain([first], stacks):
            _put(file, stacked)
        _head(file, room, data.targets, first, {})
    with safe_open(path, "pt") as written:
        splits = [(written.get_tensor(f"{s}.inputs"), written.get_tensor(f"{s}.targets")) for s in SPLITS]
    name, normalise = data.finish(splits[0][0])
    about = {"name": name, "digest": digest_of(*splits), "normalise": vars(normalise), **told}
    with path.open("r+b") as file:
        _head(file, room, data.targets, first, about)
        file.flush()
        os.fsync(file.fileno())


def _head(file: BinaryIO, room: int, targets: dict[str, Tensor], like: Tensor, about: Any) -> None:
    """Write the header of safetensors: the length of a JSON text, the text, spaces. like: some stacked inputs."""
    header: dict[str, Any] = {"__metadata__": {"tombola": json.dumps(about)}}
    at = 0
    for kind in ("targets", "inputs"):
        for split in SPLITS:
            value = targets[split] if kind == "targets" else like
            shape = [len(targets[split]), *value.shape[1:]]
            size = math.prod(shape) * value.element_size()
            header[f"{split}.{kind}"] = {"dtype": _TYPES[value.dtype], "shape": shape, "data_offsets": [at, at + size]}
            at += size
    text = json.dumps(header).encode()
    assert len(text) <= room, (len(text), room)
    file.seek(0)
    file.write(room.to_bytes(8, "little") + text.ljust(room))


def _put(file: BinaryIO, value: Tensor) -> None:
    file.write(value.contiguous().numpy().data if value.numel() else b"")


def _stacks(examples: Iterable[Tensor]) -> Iterator[Tensor]:
    left = iter(examples)
    while some := list(itertools.islice(left, _WRITTEN)):
        yield torch.stack(some)


@contextmanager
def progress(total: int | None, what: str) -> Iterator[Callable[[], None]]:
    """Give a function to call once an example; after two seconds it shows a bar, if stderr is a terminal.

    total: None where it is not known.
    """
    from rich.console import Console
    from rich.errors import LiveError
    from rich.progress import Progress

    console, began, done = Console(stderr=True), time.monotonic(), 0
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=total)
    started = False

    def step() -> None:
        nonlocal done, started
        done += 1
        if done % 100 == 0 and time.monotonic() - began > 2:
            if not started:
                started = True
                try:
                    bar.start()
                except LiveError:  # a study's own bar is there already
                    bar.disable = True
            bar.update(task, completed=done)

    try:
        yield step
    finally:
        bar.stop()
