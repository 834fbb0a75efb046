"""Words of several languages, from word lists such as Debian's; the class is the language."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tombola import streams
from tombola.errors import TombolaError

from .dataset import Dataset, split

DEBIAN = {
    "english": "/usr/share/dict/american-english",
    "german": "/usr/share/dict/ngerman",
    "french": "/usr/share/dict/french",
}
"""Lists of the packages wamerican, wngerman and wfrench."""


def words(
    files: Mapping[str, str] | None = None, length: int = 16, examples: int = 4000, validation: int = 1000, test: int = 3000
) -> Dataset:
    """Return words as the bytes of their UTF-8, padded with zeros to uint8 [length], and their languages in `files`' order.

    files: language -> path of a list with a word a line; by default Debian's of English, German and French. A word is taken
    in small letters if it has letters only, at least three, no more than `length` bytes, and is in one list alone.
    examples: words of each language, drawn at random. Raises TombolaError for a list that is missing, no text, or too short.
    """
    lists = dict(files or DEBIAN)
    _check_numbers(length=length, examples=examples)
    if len(lists) < 2:
        raise TombolaError(f"data 'words': files has {len(lists)} language; give two or more, language: path of its list")
    found = {language: _read(language, path, length) for language, path in lists.items()}
    times = Counter(word for each in found.values() for word in each)
    inputs: list[Tensor] = []
    for language, each in found.items():
        own = sorted(word for word in each if times[word] == 1)
        if len(own) < examples:
            raise TombolaError(
                f"data 'words': {language} has {len(own)} words of its own in {lists[language]}, examples is {examples}; "
                f"give at most {len(own)}, or a longer list"
            )
        drawn = torch.randperm(len(own), generator=streams.generator("words", language))[:examples]
        inputs.append(torch.stack([as_bytes(own[i], length) for i in drawn.tolist()]))
    targets = torch.arange(len(inputs)).repeat_interleave(examples)
    return split("words", torch.cat(inputs), targets, validation=validation, test=test)


def as_bytes(word: str, length: int) -> Tensor:
    """Return the bytes of the word's UTF-8, padded with zeros, uint8 [length]. Raises TombolaError for a longer word."""
    encoded = word.encode()
    if len(encoded) > length:
        raise TombolaError(f"word {word!r} has {len(encoded)} bytes, length is {length}; raise it or leave the word out")
    return torch.tensor([*encoded, *[0] * (length - len(encoded))], dtype=torch.uint8)


def _read(language: str, path: str, length: int) -> set[str]:
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except OSError:
        raise TombolaError(
            f"data 'words': there is no word list of {language} at {path}; install it (Debian: wamerican, wngerman, "
            "wfrench) or give args.files, language: path"
        ) from None
    except UnicodeDecodeError:
        raise TombolaError(f"data 'words': {path} is no text in UTF-8; convert it") from None
    small = (line.strip().lower() for line in lines)
    return {word for word in small if word.isalpha() and len(word) >= 3 and len(word.encode()) <= length}


def _check_numbers(**values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 3:
            raise TombolaError(f"data 'words': {name} is {value!r}; it must be a whole number, at least 3")
