"""Inputs outside of the classes: what a network should be unsure of.

*Near* are test examples of classes that `data.args.leave_out` took away. *Far* are noise, textures, scikit-learn's digits
resized, and the images of a file of the user, such as Fashion-MNIST's. All are stored as the test images are, in their size.

Legend: M images.
"""

import gzip
import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from tombola import streams
from tombola.errors import TombolaError

from .dataset import Dataset
from .pixels import as_stored, check_images

Shape = tuple[int, int, int]
"""Height, width and channels."""

NEAR, FILE = "near", "file"
_IDX_IMAGES = (8, 3)  # type code (unsigned bytes) and dimensions in the head of an idx file


def noise(count: int, shape: Shape) -> np.ndarray:
    """Return uniform noise in every pixel and channel."""
    return _uniform("noise", count, *shape)


def textures(count: int, shape: Shape) -> np.ndarray:
    """Return gratings, checks, dots and clouds in turn, each of its own scale, direction and two colours."""
    height, width, channels = shape
    drawn = _uniform("textures", count, 4)
    colours = _uniform("colours", count, 2, 1, 1, channels)
    rows, columns = np.mgrid[:height, :width] / min(height, width)
    angle, period = np.pi * drawn[:, 0, None, None], (0.1 + 0.4 * drawn[:, 1])[:, None, None]
    u = (rows * np.sin(angle) + columns * np.cos(angle)) / period + drawn[:, 2, None, None]
    v = (columns * np.sin(angle) - rows * np.cos(angle)) / period + drawn[:, 3, None, None]
    waves = 0.5 + 0.5 * np.sin(2 * np.pi * np.stack([u, v]))
    smooth = max(0.5, 0.06 * min(height, width))
    clouds = ndimage.gaussian_filter(_uniform("clouds", count, height, width), (0, smooth, smooth), mode="wrap")
    low, high = clouds.min((1, 2), keepdims=True), clouds.max((1, 2), keepdims=True)
    checks, dots = (waves[0] > 0.5) ^ (waves[1] > 0.5), waves[0] * waves[1] > 0.4
    kinds = [waves[0], checks, dots, (clouds - low) / (high - low).clip(1e-12)]
    pattern = np.stack(kinds).astype(float)[np.arange(count) % len(kinds), np.arange(count), ..., None]
    return pattern * colours[:, 0] + (1 - pattern) * colours[:, 1]


def digits(count: int, shape: Shape) -> np.ndarray:
    """Return scikit-learn's digits, the first `count` of its 1,797."""
    from sklearn.datasets import load_digits

    return _fitted(load_digits().images[:count] / 16, shape)


OUTSIDE: dict[str, Callable[[int, Shape], np.ndarray]] = {"noise": noise, "textures": textures, "digits": digits}
"""Name of a far set -> function (M, shape) -> pixels in [0, 1], [M, height, width, channels]."""
SETS = (NEAR, *OUTSIDE, FILE)
"""Names of all sets, as in columns."""


def kind_of(name: str) -> str:
    """Return the set's name in columns: itself, or `file` for the path of a file."""
    return name if name in SETS else FILE


def defaults(data: Dataset) -> list[str]:
    """Return the sets that a data set is measured against unless others are named: all that it has, but not itself."""
    near = [NEAR] if data.outside is not None else []
    far = [name for name in OUTSIDE if name != data.name.partition(" ")[0]] if data.train[0].ndim == 4 else []
    return near + far


def check(name: str, data: Dataset) -> None:
    """Raise TombolaError if the data set cannot be measured against the set."""
    if name == NEAR:
        if data.outside is None:
            raise TombolaError(
                f"evaluate.outside has near, but data {data.name!r} leaves no class out; set data.args.leave_out to some"
            )
        return
    check_images(data.test[0][:1], f"evaluate.outside {name!r}")
    if name == data.name.partition(" ")[0]:
        raise TombolaError(f"evaluate.outside has {name}, which is the data itself; leave it out")
    if name not in OUTSIDE:
        images_of(name)


def inputs_of(name: str, data: Dataset, count: int) -> Tensor:
    """Return at most `count` stored inputs of the set, [M, ...]. Raises TombolaError as `check` does."""
    check(name, data)
    if name == NEAR:
        assert data.outside is not None
        return data.outside[:count]
    channels, height, width = data.input_shape
    shape = (height, width, channels)
    pixels = OUTSIDE[name](count, shape) if name in OUTSIDE else _fitted(images_of(name)[:count], shape)
    return as_stored(pixels, data.test[0].dtype)


def digest(name: str) -> str:
    """Return the hash of a file's images; empty for the other sets."""
    return "" if name in SETS else hashlib.sha256(images_of(name).tobytes()).hexdigest()[:16]


def images_of(path: str) -> np.ndarray:
    """Return the gray images of an idx file (`...-idx3-ubyte`, also .gz) as pixels in [0, 1], [M, height, width].

    Fashion-MNIST and MNIST come so. Raises TombolaError where there is no such file.
    """
    here = Path(path).expanduser()
    if not here.is_file():
        raise TombolaError(
            f"evaluate.outside has {path!r}, which is none of {', '.join((NEAR, *OUTSIDE))}, and no file (seen from "
            f"{Path.cwd()}); check the path"
        )
    return _read(here.resolve(), here.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read(path: Path, changed: int) -> np.ndarray:
    wrong = TombolaError(f"{path} is no idx file of images (as Fashion-MNIST's t10k-images-idx3-ubyte.gz); give another")
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError):
        raise wrong from None
    if len(data) < 16 or tuple(data[2:4]) != _IDX_IMAGES:
        raise wrong
    count, height, width = (int.from_bytes(data[at : at + 4], "big") for at in (4, 8, 12))
    if not count * height * width or len(data) != 16 + count * height * width:
        raise wrong
    return np.frombuffer(data, np.uint8, offset=16).reshape(count, height, width) / 255


def _fitted(gray: np.ndarray, shape: Shape) -> np.ndarray:
    """Return gray images [M, h, w] in the shape: bilinear, over the whole area where they get smaller."""
    height, width, channels = shape
    images = torch.from_numpy(np.ascontiguousarray(gray))[:, None].double()
    size = (height, width)
    resized = torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1).expand(-1, -1, -1, channels).numpy()


def _uniform(what: str, *shape: int) -> np.ndarray:
    return torch.rand(shape, generator=streams.generator("outside", what), dtype=torch.float64).numpy()
