"""Named random streams: every draw of the project comes from a generator with a name.

`generator("order", seed, epoch)` is the same stream on every machine. Streams that arms of one seed share (`init`, `split`,
`order`, `augment`) leave the arm out of their names; `noise` has the stage in it.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

Word = str | int
Name = tuple[Word, ...]
"""Name of a stream, by parts."""

_MT_WORDS = 624  # the words of the Mersenne Twister's state
_MT_BYTES = slice(24, 24 + 8 * _MT_WORDS)  # of torch's generator state: after seed (8 bytes), left (4), seeded (4), next (8)
_AS_JSON = json.JSONEncoder(separators=(",", ":")).encode


def digest(*name: Word) -> bytes:
    """Return the SHA-256 of the name, 32 bytes. Its JSON is hashed: ("a", "b") and ("ab",) differ, as do 1 and "1"."""
    return hashlib.sha256(_AS_JSON(name).encode()).digest()


def generator(*name: Word, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the stream of that name, at its beginning.

    A CPU generator keeps only 32 bits of `manual_seed`, so its whole state is filled from the digest; a CUDA generator
    takes 64 bits.
    """
    return rename(torch.Generator(device), *name)


def rename(generator: torch.Generator, *name: Word) -> torch.Generator:
    """Set a generator to the beginning of the stream of that name, and return it."""
    if generator.device.type == "cpu":
        generator.set_state(_cpu_state(name))
        return generator
    return generator.manual_seed(_seed64(name))


@contextmanager
def global_stream(*name: Word, device: torch.device | str = "cpu") -> Iterator[None]:
    """Replace torch's *global* randomness by the named stream meanwhile; restore it afterwards.

    For code that takes no generator: a module's own initialisation, dropout.
    """
    device = torch.device(device)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        reseed_global(*name, device=device)
        yield


def reseed_global(*name: Word, device: torch.device | str = "cpu") -> None:
    """Set torch's global randomness to the beginning of the named stream. Only within `global_stream`, which undoes it."""
    torch.default_generator.set_state(_cpu_state(name))
    if torch.device(device).type == "cuda":
        with torch.cuda.device(device):  # seeds the current one
            torch.cuda.manual_seed(_seed64(name))


def _cpu_state(name: Name) -> Tensor:
    state = bytearray(_template())
    random = hashlib.shake_256(digest(*name)).digest(4 * _MT_WORDS)
    # 32 bits are used of each 64-bit word; by memoryviews, as this is done in each step of a training
    memoryview(state)[_MT_BYTES].cast("I")[::2] = memoryview(random).cast("I")
    return torch.frombuffer(state, dtype=torch.uint8)


@cache
def _template() -> bytes:
    return bytes(torch.Generator().manual_seed(0).get_state().tolist())  # header, 624 words of 8 bytes, cached normals


def _seed64(name: Name) -> int:
    return int.from_bytes(digest(*name)[:8], "little") >> 1  # torch takes a signed 64-bit seed
