"""Decoded data on disk: one safetensors file a data set, written once, then mapped into memory.

The file is named by a hash of where the data comes from and how it was decoded, is written aside and renamed into place.
"""

import hashlib
import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tombola.errors import TombolaError

from .dataset import Dataset, digest_of
from .normalise import Normalise

FORMAT = 1
"""Raised when decoding changes: older files are then not looked at."""
SPLITS = ("train", "validation", "test")

_WRITTEN = 256  # examples stacked for one write
_TYPES = {torch.uint8: "U8", torch.float32: "F32", torch.int64: "I64"}


@dataclass(frozen=True)
class Decoded:
    """What a source gives to be stored: all splits in one go, so that an image's shape is checked against all others'."""

    targets: dict[str, Tensor]
    """Of each of `SPLITS`."""
    inputs: Iterable[Tensor]
    """Every example [...], in the order of the splits; all of one shape and dtype."""
    finish: Callable[[Tensor], tuple[str, Normalise]]
    """Of the stored train inputs: what tables call the data, and its normalisation."""


def root() -> Path:
    """$TOMBOLA_CACHE, or ~/.cache/tombola."""
    return Path(os.environ.get("TOMBOLA_CACHE") or Path.home() / ".cache" / "tombola")


def cached(identity: Any, decode: Callable[[Path], Decoded]) -> Dataset:
    """The data set of that identity (JSON), memory-mapped; decoded and written first where it is not there yet.

    decode: gets a folder for what it needs meanwhile. Raises TombolaError where the cache can't be written.
    """
    from filelock import FileLock  # here, so that data in memory need torch alone

    key = hashlib.sha256(json.dumps([FORMAT, identity], sort_keys=True).encode()).hexdigest()[:24]
    path = root() / f"{key}.safetensors"
    try:
        if path.is_file():
            try:
                return _mapped(path)
            except (SafetensorError, KeyError, ValueError):
                pass  # damaged: made anew
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file() or not _is_whole(path):  # another process was faster
                aside = path.with_suffix(".part")
                shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
                aside.mkdir()
                try:
                    _write(aside / "data", decode(aside))
                    (aside / "data").replace(path)
                finally:
                    shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise TombolaError(
            f"cannot keep decoded data in {path.parent}: {error.strerror or error}; free space, or set "
            "TOMBOLA_CACHE to another folder"
        ) from None
    return _mapped(path)


def identity_of(file: Path) -> list[Any]:
    """What tells a source's file from another one, and from itself before a change."""
    try:
        about = file.stat()
    except OSError as error:  # a link to nothing
        raise TombolaError(f"{file} can't be read ({error.strerror}); mend it or take it out") from None
    return [str(file.resolve()), about.st_size, about.st_mtime_ns]


def _is_whole(path: Path) -> bool:
    try:
        _mapped(path)
    except (SafetensorError, KeyError, ValueError):
        return False
    return True


def _mapped(path: Path) -> Dataset:
    with safe_open(path, "pt") as file:  # its tensors are views of the mapped file: nothing is read yet
        about = json.loads(file.metadata()["tombola"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    train, validation, test = ((tensors[f"{s}.inputs"], tensors[f"{s}.targets"]) for s in SPLITS)
    mean, std = (tuple(about["normalise"][part]) for part in ("mean", "std"))
    normalise = Normalise(mean, std, about["normalise"]["scale"])
    return Dataset(about["name"], train, validation, test, normalise, about["digest"])


def _write(path: Path, data: Decoded) -> None:
    """Targets first, then inputs as they come; the header last, into the room kept for it: it tells the data's hash."""
    stacks = _stacks(data.inputs)
    first = next(stacks)
    room = 4096 + 64 * first.shape[1]  # of which normalisation takes up to 50 bytes a channel
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
    about = {"name": name, "digest": digest_of(*splits), "normalise": vars(normalise)}
    with path.open("r+b") as file:
        _head(file, room, data.targets, first, about)
        file.flush()
        os.fsync(file.fileno())


def _head(file: BinaryIO, room: int, targets: dict[str, Tensor], like: Tensor, about: Any) -> None:
    """Writes the header of safetensors: the length of a JSON text, the text, spaces. like: some stacked inputs."""
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
    waiting = []
    for example in examples:
        waiting.append(example)
        if len(waiting) == _WRITTEN:
            yield torch.stack(waiting)
            waiting = []
    if waiting:
        yield torch.stack(waiting)


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[], None]]:
    """A function to call once an example: after two seconds a bar appears, where there is a terminal to see it."""
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
