"""Decoding of image files to uint8 tensors of one shape."""

import io
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tombola.errors import TombolaError, is_out_of_memory

_GRAY = {"1", "L", "LA"}
_COLOUR = {"RGB", "RGBA", "P", "PA", "YCbCr", "RGBX"}
_ON_REQUEST = {"CMYK", "LAB", "HSV"}
"""Modes without one meaning as RGB (inks, profiles): they are converted where args.mode asks for it."""

_FORMATS = {"PNG", "JPEG", "MPO", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM"}
"""Formats whose depth of channels and frames are checked. MPO is a camera's JPEG with a preview behind it."""

# ITU-T T.81, table K.1: what most encoders scale by their quality. Sorted, since decoders order them differently.
_LUMINANCE = (
    *(10, 11, 12, 12, 13, 14, 14, 14, 16, 16, 16, 17, 18, 19, 22, 22, 24, 24, 24, 26, 29, 35),
    *(37, 40, 40, 49, 51, 51, 55, 55, 56, 56, 57, 58, 60, 61, 62, 64, 64, 68, 69, 72, 77, 78),
    *(80, 81, 87, 87, 92, 92, 95, 98, 99, 100, 101, 103, 103, 103, 104, 109, 112, 113, 120, 121),
)


@dataclass
class Decoder:
    """Decoder of images, one after another; all results have one shape."""

    name: str
    """Name of the data, for errors."""
    mode: str | None = None
    """Mode RGB or L to convert every image to; None: that of the first image."""
    size: int | None = None
    pool: int = 1
    qualities: set[int | None] = field(default_factory=set)
    """JPEG qualities found; None for an image that is no JPEG or has unusual tables."""
    first: tuple[str, tuple[int, ...]] | None = None
    """Name and shape of the first example."""
    found: str | None = None
    """Mode of the first image, RGB or L."""
    opaque: bool = False
    """True refuses transparent images though `mode` is set."""

    def __call__(self, what: str, data: bytes | None) -> Tensor:
        """Return the image [C, H, W], uint8. Raises TombolaError for one that is corrupt or unlike the first.

        what: its name in errors.
        """
        from PIL import Image, ImageOps

        if data is None:
            raise TombolaError(f"data {self.name!r}: {what} is missing; take it out of the source")
        try:
            with Image.open(io.BytesIO(data)) as image:
                self._check_whole(what, image)
                image.load()
                tables = getattr(image, "quantization", None)
                ImageOps.exif_transpose(image, in_place=True)
                image = self._converted(what, image)
                if self.size is not None:
                    image = _resized(image, self.size)
                pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        except TombolaError:
            raise
        except Exception as error:  # decoders raise whatever they like: OSError, SyntaxError, ValueError, struct.error
            if is_out_of_memory(error):
                raise
            raise TombolaError(
                f"data {self.name!r}: {what} can't be decoded ({' '.join(str(error).split())}); replace it or take it out"
            ) from None
        self.qualities.add(jpeg_quality(tuple(tables[0])) if tables else None)
        pixels = pixels.view(image.height, image.width, -1).permute(2, 0, 1)
        self.alike(what, pixels, "(channels, height, width); set args.size to resize all")
        return self._pooled(what, pixels)

    def _check_whole(self, what: str, image: Any) -> None:
        """Raise TombolaError for an image of which decoding would drop bits or frames."""
        if image.format not in _FORMATS:
            raise TombolaError(f"data {self.name!r}: {what} is a {image.format} file; convert it to PNG")
        # Pillow's modes of colour have 8 bits whatever the file has; the depth is in the arguments of its decoder: "RGB;16B"
        # of a PNG, ("RGB;16L", 0, 1) of a TIFF, ("RGB", largest value) of a PPM. A BMP's "BGR;16" is 16 bits a pixel.
        arguments = image.tile[0][3] if image.tile else ""  # a WebP has none
        raw, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
        deep = (";16" in str(raw) and image.format != "BMP") or (image.format == "PPM" and rest and rest[0] > 255)
        if deep and image.mode in _COLOUR:
            raise TombolaError(
                f"data {self.name!r}: {what} has 16 bits a channel; only images of 8 are taken: scale it, or turn it into "
                "numbers in a function of your own that returns a tombola.data.Dataset"
            )
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            raise TombolaError(f"data {self.name!r}: {what} has {frames} frames; give an image of one")

    def _converted(self, what: str, image: Any) -> Any:
        mode = "L" if image.mode in _GRAY else "RGB" if image.mode in _COLOUR else None
        if image.mode in _ON_REQUEST and self.mode is not None:
            mode = "RGB"
        if mode is None:
            asked = "set args.mode to RGB to convert it" if image.mode in _ON_REQUEST else "convert it"
            raise TombolaError(
                f"data {self.name!r}: {what} has mode {image.mode}; only gray and RGB images of 8 bits a channel are taken: "
                f"{asked}"
            )
        hides = (self.mode is None or self.opaque) and image.has_transparency_data
        if hides and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
            drop = "" if self.opaque else ", or set args.mode to RGB or L to drop the transparency"
            raise TombolaError(f"data {self.name!r}: {what} is transparent in places; paint it on a background{drop}")
        self.found = self.found or mode
        if self.mode is None and mode != self.found:
            words = {"L": "grayscale", "RGB": "colour"}
            raise TombolaError(
                f"data {self.name!r}: {what} is {words[mode]}, those before it are {words[self.found]}; set args.mode to "
                "RGB or L to convert all"
            )
        wanted = self.mode or self.found
        return image if image.mode == wanted else image.convert(wanted)

    def alike(self, what: str, value: Tensor, mend: str) -> None:
        """Raise TombolaError if the shape is not that of the first example."""
        shape = tuple(value.shape)
        self.first = self.first or (what, shape)
        if shape != self.first[1]:
            name, first = self.first
            raise TombolaError(f"data {self.name!r}: {what} has shape {list(shape)}, {name} {list(first)} {mend}")

    def _pooled(self, what: str, pixels: Tensor) -> Tensor:
        if self.pool == 1:
            return pixels
        if any(side % self.pool for side in pixels.shape[1:]):
            raise TombolaError(
                f"data {self.name!r}: pool is {self.pool}, which does not divide the size {list(pixels.shape[1:])} of {what}"
            )
        return torch.nn.functional.avg_pool2d(pixels.float(), self.pool).round().to(torch.uint8)


def _resized(image: Any, size: int) -> Any:
    """Resize the shorter side to `size` (bilinear over the whole area), then cut out the middle square."""
    from PIL import Image

    factor = size / min(image.size)
    width, height = (max(size, round(side * factor)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


@lru_cache(maxsize=256)
def jpeg_quality(luminance: tuple[int, ...]) -> int | None:
    """Return the quality 1-100 of a luminance table in the scaling of the Independent JPEG Group; None for other tables."""
    for quality in range(1, 101):
        scale = 200 - 2 * quality if quality >= 50 else 5000 // quality
        if sorted(luminance) == [min(255, max(1, (base * scale + 50) // 100)) for base in _LUMINANCE]:
            return quality
    return None
