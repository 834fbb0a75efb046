"""Image files that 8-bit RGB and gray pixels cannot hold: refused in one sentence, or turned upright."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from tombola.data.images import Decoder
from tombola.errors import TombolaError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
RGB = Image.fromarray(PIXELS)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png16(channels, colour):
    """A PNG of 16 bits a channel; colour: 0 gray, 2 RGB, 4 gray with alpha, 6 RGBA."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in RNG.integers(0, 4096, (6, 8, channels)))
    head = struct.pack(">IIBBBBB", 8, 6, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff16():
    """A TIFF of 4x4 RGB pixels of 16 bits a channel."""
    depths = 8 + 2 + 12 * 9 + 4
    entries = [(256, 4), (257, 4), (258, depths), (259, 1), (262, 2), (273, depths + 6), (277, 3), (278, 4), (279, 96)]
    directory = b"".join(struct.pack("<HHII", tag, 4 if tag != 258 else 3, 1 if tag != 258 else 3, v) for tag, v in entries)
    return b"II*\0" + struct.pack("<IH", 8, 9) + directory + struct.pack("<IHHH", 0, 16, 16, 16) + bytes(96)


def refused(data, said, **options):
    with pytest.raises(TombolaError) as caught:
        Decoder("zoo", **options)("a.png", data)
    assert f"data 'zoo': a.png {said}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [png16(3, 2), png16(2, 4), png16(4, 6), tiff16(), b"P6 2 2 65535 " + bytes(24), b"P6 2 2 1023 " + bytes(24)],
    ids=["RGB", "gray and alpha", "RGBA", "TIFF", "PPM", "PPM of 10 bits"],
)
@pytest.mark.parametrize("mode", [None, "RGB", "L"])
def test_colours_of_more_than_8_bits_are_refused(data, mode):
    refused(data, "has 16 bits a channel", mode=mode)


@pytest.mark.parametrize("data", [png16(1, 0), b"P5 2 2 65535 " + bytes(8), saved(Image.new("F", (4, 4)), "TIFF")])
def test_grays_of_more_than_8_bits_are_refused(data):
    refused(data, "has mode ")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animations_and_pages_are_refused(kind):
    refused(saved(RGB, kind, save_all=True, append_images=[RGB.rotate(90)]), "has 2 frames; give an image of one")


@pytest.mark.parametrize(
    "data",
    [
        saved(RGB.convert("P"), "PNG", transparency=RGB.convert("P").getpixel((0, 0))),
        saved(RGB, "PNG", transparency=tuple(PIXELS[0, 0].tolist())),
        saved(Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])), "PNG"),
        saved(RGB.convert("LA").point(lambda v: v // 2), "PNG"),
        saved(Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0]])), "WEBP", lossless=True),
    ],
    ids=["palette", "colour key", "RGBA", "gray and alpha", "WebP"],
)
def test_transparency_is_dropped_on_request_alone(data):
    refused(data, "is transparent in places")
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(Decoder("zoo", mode="RGB")("a.png", data).permute(1, 2, 0).numpy(), expected)


def test_an_alpha_channel_that_hides_nothing_is_left_out():
    opaque = Image.fromarray(np.dstack([PIXELS, np.full((6, 8), 255, np.uint8)]))
    assert torch.equal(Decoder("zoo")("a.png", saved(opaque, "PNG")), Decoder("zoo")("a.png", saved(RGB, "PNG")))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_are_converted_on_request_alone(kind):
    data = saved(RGB.convert("CMYK"), kind)
    refused(data, "has mode CMYK; only gray and RGB images of 8 bits a channel are taken: set args.mode to RGB")
    assert Decoder("zoo", mode="RGB")("a.png", data).shape == (3, 6, 8)


def test_formats_that_are_not_checked_are_refused():
    refused(saved(RGB, "TGA"), "is a TGA file; convert it to PNG")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (kind, saved(RGB.convert(mode), kind))
        for kind, mode in [("PNG", "RGB"), ("PNG", "P"), ("PNG", "L"), ("PNG", "1"), ("BMP", "RGB"), ("TIFF", "RGB")]
    ]
    + [("PPM", saved(RGB, "PPM")), ("PPM", saved(RGB.convert("L"), "PPM")), ("MPO", saved(RGB, "MPO"))],
)
def test_pixels_are_as_pillow_decodes_them(kind, data):
    with Image.open(io.BytesIO(data)) as image:
        wanted = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    found = Decoder("zoo")("a", data).permute(1, 2, 0).numpy()
    assert np.array_equal(found, wanted.reshape(found.shape))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_images_are_turned_as_their_orientation_says(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    found = Decoder("zoo")("a", saved(RGB, kind, exif=exif, **lossless)).permute(1, 2, 0).numpy()
    # the tag's definition: to which side of the upright image the first row and the first column of the file belong
    rows_first = PIXELS if orientation < 5 else PIXELS.transpose(1, 0, 2)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    across = -1 if orientation in (2, 3, 6, 7) else 1
    assert np.array_equal(found, rows_first[::down, ::across])
