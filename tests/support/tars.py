"""Images in tar files, as WebDataset has them."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def write_tars(folder: Path, count: int, each: int, side: int, pixels=None, label=lambda i: i % 1000, name="train") -> str:
    """Write `count` images, `each` to a tar file; return the pattern of the files.

    pixels: number of an image -> uint8 [side, side, 3], or an encoded picture; by default drawn at random. label: number ->
        class.
    """
    rng = np.random.default_rng(0)
    for shard, first in enumerate(range(0, count, each)):
        with tarfile.open(folder / f"{name}-{shard:05d}.tar", "w") as tar:
            for i in range(first, min(first + each, count)):
                picture = rng.integers(256, size=(side, side, 3), dtype=np.uint8) if pixels is None else pixels(i)
                encoded = picture if isinstance(picture, bytes) else png(picture)
                for suffix, data in (("png", encoded), ("cls", str(label(i)).encode())):
                    (about := tarfile.TarInfo(f"{i:07d}.{suffix}")).size = len(data)
                    tar.addfile(about, io.BytesIO(data))
    return str(folder / f"{name}-*.tar")


def png(picture: np.ndarray) -> bytes:
    """Return an encoded picture."""
    Image.fromarray(picture).save(encoded := io.BytesIO(), "PNG", compress_level=1)
    return encoded.getvalue()
