"""Corrupted images: the fifteen kinds of Hendrycks and Dietterich 2019, each at five severities.

The kinds are theirs; the constants, the patterns of frost, snow and fog, and the code are our own. So the numbers compare
networks with one another, and are not those of CIFAR-10-C. Lengths are in pixels of an image of 32 pixels and grow with the
image. What is random is drawn for each image by its number and the kind, and is the same at all severities: a result depends
neither on the other images nor on their order, and grows with the severity.

Legend: N images, H, W, C their height, width and channels.
"""

import io
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from tombola import streams
from tombola.errors import TombolaError

from .pixels import as_pixels, as_stored

SEVERITIES = (1, 2, 3, 4, 5)
_SIDE = 32

Images = np.ndarray
"""Float64 [N, H, W, C] in [0, 1]."""


class Draws:
    """The random numbers of each image, from a stream named by the corruption and the image's number."""

    def __init__(self, kind: str, numbers: Tensor, shape: tuple[int, int, int]):
        self._streams = [streams.generator("corruption", kind, int(number)) for number in numbers]
        self._shape = shape

    def normal(self, *shape: int) -> np.ndarray:
        """Return standard normals [N, *shape]; by default in the images' shape."""
        shape = shape or self._shape
        return torch.stack([torch.randn(shape, generator=g, dtype=torch.float64) for g in self._streams]).numpy()

    def uniform(self, *shape: int) -> np.ndarray:
        """Return numbers of [0, 1) in [N, *shape]; by default in the images' shape."""
        shape = shape or self._shape
        return torch.stack([torch.rand(shape, generator=g, dtype=torch.float64) for g in self._streams]).numpy()


def gaussian_noise(x: Images, level: int, draws: Draws) -> Images:
    return x + (0.04, 0.06, 0.09, 0.12, 0.16)[level] * draws.normal()


def shot_noise(x: Images, level: int, draws: Draws) -> Images:
    """Return counts of photons, in their normal approximation: noise whose variance is the brightness."""
    return x + np.sqrt(x / (400, 200, 100, 60, 35)[level]) * draws.normal()


def impulse_noise(x: Images, level: int, draws: Draws) -> Images:
    """Return images with numbers replaced by 0 or 1."""
    share, u = (0.01, 0.03, 0.06, 0.1, 0.16)[level], draws.uniform()
    return np.where(u < share / 2, 0.0, np.where(u > 1 - share / 2, 1.0, x))


def defocus_blur(x: Images, level: int, draws: Draws) -> Images:
    """Return averages over a disc with a soft edge."""
    radius = (0.6, 0.9, 1.3, 1.8, 2.4)[level] * _scale(x)
    reach = int(np.ceil(radius)) + 1
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(rows, columns), 0, 1)
    return ndimage.convolve(x, (disc / disc.sum())[None, :, :, None], mode="reflect")


def glass_blur(x: Images, level: int, draws: Draws) -> Images:
    """Return images whose pixels are moved at random, then blurred a little."""
    reach = (0.5, 0.8, 1.1, 1.5, 2.0)[level] * _scale(x)
    moves = reach * (2 * draws.uniform(2, *x.shape[1:3]) - 1)
    return _blurred(_moved(x, moves[:, 0], moves[:, 1]), 0.35 * _scale(x))


def motion_blur(x: Images, level: int, draws: Draws) -> Images:
    """Return averages along a line, whose direction is each image's own."""
    length = (2.0, 3.0, 4.0, 5.5, 7.0)[level] * _scale(x)
    return _dragged(x, length, np.pi * draws.uniform(1)[:, 0])


def zoom_blur(x: Images, level: int, draws: Draws) -> Images:
    """Return averages of the image and its enlargements."""
    rows, columns = np.mgrid[: x.shape[1], : x.shape[2]] - (np.array(x.shape[1:3]) - 1).reshape(2, 1, 1) / 2
    factors = np.linspace(1, (1.1, 1.16, 1.22, 1.3, 1.4)[level], 8)
    return np.mean([_moved(x, rows * (1 / f - 1), columns * (1 / f - 1)) for f in factors], axis=0)


def snow(x: Images, level: int, draws: Draws) -> Images:
    """Return paler images under flakes that fall aslant."""
    share, pale = ((0.01, 0.08), (0.02, 0.14), (0.035, 0.2), (0.05, 0.26), (0.07, 0.32))[level]
    flakes = (draws.uniform(*x.shape[1:3]) < share).astype(float)[..., None]
    angle = np.pi * (0.25 + 0.5 * draws.uniform(1)[:, 0])
    gray = x.mean(-1, keepdims=True)
    fallen = 2.5 * _dragged(flakes, 3 * _scale(x), angle)
    return (1 - pale) * x + pale * np.maximum(x, 0.5 + gray / 2) + fallen


def frost(x: Images, level: int, draws: Draws) -> Images:
    """Return images behind bright veins of ice."""
    clear, ice = ((0.95, 0.25), (0.88, 0.35), (0.8, 0.45), (0.74, 0.52), (0.68, 0.6))[level]
    veins = 1 - np.abs(2 * _clouds(x, draws, 0.8) - 1)  # ridges where the clouds are at their middle
    return clear * x + ice * veins[..., None] ** 2


def fog(x: Images, level: int, draws: Draws) -> Images:
    """Return images in bright clouds, which take contrast away."""
    dense = (0.2, 0.35, 0.5, 0.65, 0.8)[level]
    return (1 - dense) * x + dense * (0.55 + 0.35 * _clouds(x, draws, 0.5)[..., None])


def brightness(x: Images, level: int, draws: Draws) -> Images:
    return x + (0.08, 0.15, 0.22, 0.3, 0.38)[level]


def contrast(x: Images, level: int, draws: Draws) -> Images:
    middle = x.mean((1, 2), keepdims=True)
    return middle + (0.7, 0.5, 0.35, 0.22, 0.12)[level] * (x - middle)


def elastic_transform(x: Images, level: int, draws: Draws) -> Images:
    """Return images bent by a smooth random field."""
    size, smooth = (0.6, 0.9, 1.2, 1.6, 2.0)[level] * _scale(x), 3 * _scale(x)
    field = ndimage.gaussian_filter(draws.normal(2, *x.shape[1:3]), (0, 0, smooth, smooth), mode="reflect")
    field *= size / field.std((2, 3), keepdims=True).clip(1e-12)
    return _moved(x, field[:, 0], field[:, 1])


def pixelate(x: Images, level: int, draws: Draws) -> Images:
    """Return images made smaller, then larger again without smoothing."""
    from PIL import Image

    height, width = x.shape[1:3]
    share = (0.9, 0.75, 0.6, 0.5, 0.4)[level]
    small = max(1, round(share * width)), max(1, round(share * height))
    return _by_pillow(x, lambda i: i.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.NEAREST))


def jpeg_compression(x: Images, level: int, draws: Draws) -> Images:
    from PIL import Image

    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=(60, 40, 25, 15, 8)[level])
        return Image.open(file)

    return _by_pillow(x, compressed)


CORRUPTIONS: dict[str, Callable[[Images, int, Draws], Images]] = {
    kind.__name__: kind
    for kind in (
        *(gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur, snow, frost, fog),
        *(brightness, contrast, elastic_transform, pixelate, jpeg_compression),
    )
}
"""Name -> function (images, severity from 0, draws) -> images, not yet cut to [0, 1]."""


def corrupted(images: Tensor, kind: str, severity: int, numbers: Tensor) -> Tensor:
    """Return stored images [N, C, H, W], uint8 or floats in [0, 1], corrupted, in their dtype and rounded to 1/255.

    severity: 1 to 5. numbers: of the images, [N]: they name the random draws. Raises TombolaError for an unknown kind or
    severity, and for inputs that are no images of one or three channels.
    """
    if kind not in CORRUPTIONS or severity not in SEVERITIES:
        raise TombolaError(
            f"corruption {kind!r} of severity {severity} is unknown; severities are 1 to 5, of {', '.join(CORRUPTIONS)}"
        )
    x = as_pixels(images)
    if not len(x):
        return images
    found = CORRUPTIONS[kind](x, severity - 1, Draws(kind, numbers, x.shape[1:]))
    return as_stored(found, images.dtype)


def each_corrupted_once(images: Tensor, severity: int) -> tuple[Tensor, Tensor]:
    """Return the images, each corrupted by one kind, and the kinds' numbers [N]: all fifteen are as frequent.

    Image i has kind i + 3 severity, modulo 15, so that an image meets five different kinds at the five severities.
    """
    numbers = torch.arange(len(images))
    kinds = (numbers + 3 * severity) % len(CORRUPTIONS)
    out = torch.empty_like(images)
    for k, kind in enumerate(CORRUPTIONS):
        rows = (kinds == k).nonzero()[:, 0]
        out[rows] = corrupted(images[rows], kind, severity, rows)
    return out, kinds


def _scale(x: Images) -> float:
    return min(x.shape[1:3]) / _SIDE


def _blurred(x: Images, sigma: float) -> Images:
    return ndimage.gaussian_filter(x, (0, sigma, sigma, 0), mode="reflect")


def _moved(x: Images, down: np.ndarray, right: np.ndarray) -> Images:
    """Return at each pixel the image at (row + down, column + right), between pixels bilinear; edges are repeated."""
    n, height, width, _ = x.shape
    rows, columns = np.mgrid[:height, :width]
    rows, columns = (rows + down).clip(0, height - 1), (columns + right).clip(0, width - 1)
    rows, columns = (np.broadcast_to(at, (n, height, width)) for at in (rows, columns))
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    bottom, right_ = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    v, u, image = (rows - top)[..., None], (columns - left)[..., None], np.arange(n)[:, None, None]
    upper = (1 - u) * x[image, top, left] + u * x[image, top, right_]
    return (1 - v) * upper + v * ((1 - u) * x[image, bottom, left] + u * x[image, bottom, right_])


def _dragged(x: Images, length: float, angle: np.ndarray) -> Images:
    """Return averages along a line of that length in pixels, at the angle [N] of each image."""
    along = np.linspace(-length / 2, length / 2, max(3, 2 * int(np.ceil(length)) + 1))
    down, right = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.mean([_moved(x, step * down, step * right) for step in along], axis=0)


def _clouds(x: Images, draws: Draws, decay: float) -> np.ndarray:
    """Return smooth patterns in [0, 1], [N, H, W]: noise at several scales, each half as coarse and `decay` as strong."""
    total, smooth, strength = np.zeros(x.shape[:3]), 8 * _scale(x), 1.0
    while smooth > 0.3:
        layer = ndimage.gaussian_filter(draws.normal(*x.shape[1:3]), (0, smooth, smooth), mode="wrap")
        total += strength * layer / layer.std((1, 2), keepdims=True).clip(1e-12)
        smooth, strength = smooth / 2, strength * decay
    low, high = total.min((1, 2), keepdims=True), total.max((1, 2), keepdims=True)
    return (total - low) / (high - low).clip(1e-12)


def _by_pillow(x: Images, change: Callable[..., object]) -> Images:
    """Return each image as Pillow has changed it."""
    from PIL import Image

    pixels = (255 * x).round().astype(np.uint8)
    changed = [np.asarray(change(Image.fromarray(p[..., 0] if p.shape[-1] == 1 else p))) for p in pixels]
    return np.stack(changed).reshape(x.shape) / 255
