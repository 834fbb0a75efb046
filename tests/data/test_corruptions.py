"""Corrupted images: kinds, severities and draws; stored as they came."""

import math

import numpy as np
import pytest
import torch

from tombola.data.corruptions import CORRUPTIONS, SEVERITIES, corrupted, each_corrupted_once
from tombola.data.pixels import as_pixels, as_stored
from tombola.errors import TombolaError
from tombola.metrics import uncertainty_columns
from tombola.streams import generator

ROWS = torch.arange(12)


def pictures(n: int = 12, size: int = 32, channels: int = 3) -> torch.Tensor:
    """Smooth patterns with edges, of middling brightness."""
    at = torch.arange(size) / size
    waves = torch.stack([torch.sin(6 * at[:, None] * (1 + i % 4) + i) * torch.cos(5 * at * (1 + i % 3)) for i in range(n)])
    return (100 + 70 * waves).to(torch.uint8)[:, None].repeat(1, channels, 1, 1)


def change(after: torch.Tensor, before: torch.Tensor) -> float:
    return (after.double() - before.double()).square().mean().sqrt().item()


def test_there_are_fifteen_kinds_with_a_column_each():
    assert tuple(CORRUPTIONS) == uncertainty_columns.CORRUPTIONS
    assert len(CORRUPTIONS) == 15


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_kind_keeps_shape_and_dtype_grows_with_severity_and_treats_images_apart(kind):
    images = pictures()
    found = [corrupted(images, kind, severity, ROWS) for severity in SEVERITIES]
    assert all(one.shape == images.shape and one.dtype == torch.uint8 for one in found)
    changes = [change(one, images) for one in found]
    assert changes == sorted(changes)
    assert changes[0] > 0.5
    assert changes[4] > 1.5 * changes[0]
    some = torch.tensor([7, 2])
    assert torch.equal(corrupted(images[some], kind, 3, some), found[2][some])  # whatever the others and the order


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (16, 3)])
def test_smaller_and_gray_images_and_floats(kind, size, channels):
    images = pictures(3, size, channels)
    floats = corrupted(images.float() / 255, kind, 2, ROWS[:3])
    stored = corrupted(images, kind, 2, ROWS[:3])
    assert torch.allclose(255 * floats, stored.float(), atol=1.001)  # floats may fall on the other side of a half
    assert 0 <= floats.min() <= floats.max() <= 1


def test_noise_has_the_stated_strength():
    gray = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    numbers = torch.arange(40)
    for severity, std in zip(SEVERITIES, (0.04, 0.06, 0.09, 0.12, 0.16), strict=True):
        assert corrupted(gray, "gaussian_noise", severity, numbers).double().std() / 255 == pytest.approx(std, rel=0.02)
    shot = corrupted(gray, "shot_noise", 3, numbers).double() / 255
    assert shot.std() == pytest.approx(math.sqrt(128 / 255 / 100), rel=0.02)
    impulses = corrupted(gray, "impulse_noise", 5, numbers)
    assert (impulses != 128).double().mean() == pytest.approx(0.16, rel=0.05)
    assert {0, 128, 255} == set(impulses.unique().tolist())


def test_what_leaves_a_constant_image_alone():
    gray = torch.full((2, 3, 32, 32), 90, dtype=torch.uint8)
    for kind in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast", "elastic_transform", "pixelate"):
        assert torch.equal(corrupted(gray, kind, 5, ROWS[:2]), gray), kind
    assert (corrupted(gray, "brightness", 1, ROWS[:2]) == round(255 * (90 / 255 + 0.08))).all()


def test_a_blur_of_one_bright_pixel_is_the_disc():
    image = torch.zeros(1, 1, 32, 32)
    image[0, 0, 16, 16] = 1
    found = as_pixels(corrupted(image, "defocus_blur", 5, ROWS[:1]))[0, ..., 0]
    rows, columns = np.mgrid[:32, :32] - 16
    disc = np.clip(2.9 - np.hypot(rows, columns), 0, 1)
    assert found == pytest.approx(disc / disc.sum(), abs=0.5 / 255)


def test_each_image_meets_five_kinds_and_all_kinds_are_as_frequent():
    images, kinds = pictures(30), []
    for severity in SEVERITIES:
        found, kind = each_corrupted_once(images, severity)
        kinds.append(kind)
        assert (kind.bincount(minlength=15) == 2).all()
        for i in (0, 17):
            alone = corrupted(images[i : i + 1], list(CORRUPTIONS)[kind[i]], severity, torch.tensor([i]))
            assert torch.equal(found[i], alone[0])
    assert all(len(column.unique()) == 5 for column in torch.stack(kinds).T)


def test_stored_images_come_back():
    images = torch.randint(256, (3, 3, 5, 4), generator=generator("images"), dtype=torch.uint8)
    assert torch.equal(as_stored(as_pixels(images), torch.uint8), images)


@pytest.mark.parametrize(
    ("images", "kind", "severity", "words"),
    [
        (pictures(1), "rain", 1, "corruption 'rain' of severity 1 is unknown"),
        (pictures(1), "fog", 6, "severities are 1 to 5"),
        (pictures(1, channels=2), "fog", 1, "one or three channels"),
        (torch.zeros(1, 4), "fog", 1, r"inputs have shape \[4\]"),
        (torch.full((1, 1, 8, 8), 2.0), "fog", 1, r"floats in \[0, 1\]"),
        (torch.full((1, 1, 8, 8), math.nan), "fog", 1, r"floats in \[0, 1\]"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.long), "fog", 1, "stored as bytes"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(images, kind, severity, words):
    with pytest.raises(TombolaError, match=words):
        corrupted(images, kind, severity, ROWS[:1])
