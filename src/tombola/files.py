"""Files written aside and renamed into place; and safetensors files with a JSON description and a checksum over both.

Nothing is ever unpickled. torch is imported when tensors are read or written: commands that read a study need none.
"""

import ctypes
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tombola.errors import TombolaError

if TYPE_CHECKING:
    from torch import Tensor

_KEY = "tombola"


def address_of(path: Path | str) -> str | None:
    """Return the address that a path stands for, such as s3://bucket/runs; None for a path on disk.

    A `Path` of an address has lost one of its two slashes.
    """
    scheme, found, rest = str(path).partition(":/")
    return f"{scheme}://{rest.lstrip('/')}" if found and len(scheme) > 1 and scheme.isalnum() else None


@contextmanager
def written_aside(path: Path, aside: Path | None = None) -> Iterator[Path]:
    """Give a path to write a file or a folder at, which is renamed to `path` at the end, or removed after an error.

    aside: that path, on the same disk; by default beside `path`, with a name of this process.
    """
    aside = aside or path.with_name(f"{path.name}.{os.getpid()}.part")
    _remove(aside)  # of a killed process
    try:
        yield aside
        aside.replace(path)
    finally:
        _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def in_words(size: float) -> str:
    """Return bytes as people write them: 1.2 GB."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6)):
        if size >= bytes_:
            return f"{size / bytes_:.{1 if size < 10 * bytes_ else 0}f} {unit}"
    return f"{size / 1e3:.0f} kB"


def write(path: Path, tensors: "dict[str, Tensor]", description: dict[str, Any]) -> None:
    """Write the tensors and the description. Raises TombolaError if it can't be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps(description, sort_keys=True)
    # one entry: safetensors writes several in any order, and equal tickets are to be equal files
    header = {_KEY: f"{_checksum(stored, text)} {text}"}
    try:
        with written_aside(path) as aside:
            save_file(stored, aside, metadata=header)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise TombolaError(f"cannot write {path}: {why}; check the folder's permissions and space") from None


def read(path: Path) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Return tensors and description. Raises TombolaError for a missing, truncated, altered or foreign file."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise TombolaError(f"there is no file {path}; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise TombolaError(f"{path} is not a whole safetensors file ({error}); it is truncated or something else") from None
    if _KEY not in header:
        raise TombolaError(f"{path} is a safetensors file, but tombola did not write it: its header lacks {_KEY!r}")
    checksum, _, text = header[_KEY].partition(" ")
    if checksum != _checksum(tensors, text):
        raise TombolaError(f"{path} is corrupt: its checksum does not match; take another copy or train it anew")
    try:
        description = json.loads(text)
    except ValueError:
        description = None
    if not isinstance(description, dict):
        raise TombolaError(f"{path} is corrupt: its description is no JSON mapping; take another copy or train it anew")
    return tensors, description


def read_plain(path: Path | str) -> str:
    """Return the text of a file. Raises OSError for a pipe, which would be waited for until somebody writes to it."""
    if not os.path.isfile(path):  # not by Path: thousands of records
        raise FileNotFoundError(path)
    with open(path) as file:
        return file.read()


def pack(mask: "Tensor") -> "Tensor":
    """Return a mask, bool [P], as bits, uint8 [ceil(P / 8)]."""
    import torch

    padded = torch.zeros(-(-mask.numel() // 8) * 8, dtype=torch.uint8)
    padded[: mask.numel()] = mask.cpu()
    return (padded.view(-1, 8) << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def unpack(bits: "Tensor", numel: int) -> "Tensor":
    """Return the mask, bool [numel], that `pack` packed."""
    import torch

    return (bits.view(-1, 1) >> torch.arange(8, dtype=torch.uint8) & 1).view(-1)[:numel].bool()


def _checksum(tensors: "dict[str, Tensor]", text: str) -> str:
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        if value.numel():
            size = value.numel() * value.element_size()
            total.update((ctypes.c_char * size).from_address(value.data_ptr()))  # without a copy
    return total.hexdigest()
