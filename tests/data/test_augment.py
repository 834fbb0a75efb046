"""Flips and crops, and batches that are the same wherever the data lies."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tombola.data import Dataset, Normalise, training_batches
from tombola.data.augment import cut, flip_and_crop
from tombola.data.batches import StreamedBatches, TensorBatches
from tombola.errors import TombolaError
from tombola.settings import DataSettings
from tombola.streams import generator

CPU = torch.device("cpu")


def naive(image, padding, top, left, mirrored):
    """One image, pixel by pixel: mirrored, then shifted, zeros from outside."""
    channels, height, width = image.shape
    result = torch.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                row, column = y + top - padding, x + left - padding
                if 0 <= row < height and 0 <= column < width:
                    result[c, y, x] = image[c, row, width - 1 - column if mirrored else column]
    return result


@given(
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([torch.uint8, torch.float32]),
    st.data(),
)
def test_a_cut_is_the_mirrored_and_shifted_image(padding, channels, height, width, dtype, data):
    corners = st.integers(0, 2 * padding)
    chosen = data.draw(st.lists(st.tuples(corners, corners, st.booleans()), min_size=1, max_size=4))
    images = torch.randint(1, 256, (len(chosen), channels, height, width), generator=generator("images")).to(dtype)
    top, left, mirrored = (torch.tensor(values) for values in zip(*chosen, strict=True))
    made = cut(images, padding, top, left, mirrored.bool())
    assert made.dtype == dtype
    expected = [naive(image, padding, *choice) for image, choice in zip(images, chosen, strict=True)]
    assert torch.equal(made, torch.stack(expected))


def test_all_windows_and_both_directions_occur_equally_often():
    """18 possibilities, 9,000 images: the chi-squared statistic of 17 degrees of freedom is below 40.8 at p = 0.001."""
    image = torch.arange(1.0, 10).view(1, 1, 3, 3)
    draw = flip_and_crop(flip=True, crop=1)(9000, "windows", 0, CPU)
    made = draw(image.expand(9000, 1, 3, 3), torch.arange(9000)).flatten(1)
    kinds, counts = made.unique(dim=0, return_counts=True)
    possible = {tuple(naive(image[0], 1, t, c, m).flatten().tolist()) for t in range(3) for c in range(3) for m in (0, 1)}
    assert {tuple(kind) for kind in kinds.tolist()} == possible
    assert float(((counts - 500) ** 2 / 500).sum()) < 40.8


def test_without_a_crop_nothing_moves_and_without_a_flip_nothing_is_mirrored():
    images, rows = torch.rand(50, 1, 3, 3, generator=generator("x")), torch.arange(50)
    flipped = flip_and_crop(flip=True, crop=0)(50, "a", 0, CPU)(images, rows)
    same = (flipped == images).flatten(1).all(1)
    assert torch.equal(flipped[~same], images[~same].flip(-1))
    assert 10 < int(same.sum()) < 40
    cropped = flip_and_crop(flip=False, crop=1)(50, "a", 0, CPU)(images, rows)
    both = flip_and_crop(flip=True, crop=1)(50, "a", 0, CPU)(images, rows)
    assert torch.equal((both == cropped).flatten(1).all(1), same)  # the flips are the same whatever the crop is


def test_alternating_flips_show_each_image_both_ways_in_two_successive_epochs():
    images, rows = torch.rand(50, 1, 3, 3, generator=generator("x")), torch.arange(50)

    def mirrored(seed, epoch):
        made = flip_and_crop(flip=True, crop=0, alternate=True)(50, seed, epoch, CPU)(images, rows)
        same = (made == images).flatten(1).all(1)
        assert torch.equal(made[~same], images[~same].flip(-1))
        return ~same

    first = mirrored(0, 0)
    assert 10 < int(first.sum()) < 40
    for epoch in range(1, 5):
        assert torch.equal(mirrored(0, epoch), first if epoch % 2 == 0 else ~first)
    assert not torch.equal(mirrored(1, 0), first)


def test_alternating_flips_leave_the_crops_as_they_are():
    image = torch.arange(1.0, 4).view(1, 1, 3, 1).expand(50, 1, 3, 3)  # its rows differ, its columns do not
    once, alternating = (
        flip_and_crop(flip=True, crop=1, alternate=alternate)(50, 0, 3, CPU)(image, torch.arange(50))[:, 0, :, 1]
        for alternate in (False, True)
    )
    assert torch.equal(once, alternating)
    assert len(once.unique(dim=0)) == 3


def test_flips_that_alternate_need_flips():
    with pytest.raises(TombolaError, match="alternate_flip is True, but flip is False"):
        DataSettings(alternate_flip=True)
    assert a_batch(DataSettings(flip=True)) != a_batch(DataSettings(flip=True, alternate_flip=True))


def a_batch(settings):
    images = torch.arange(60.0).view(20, 1, 1, 3)
    data = Dataset("it", (images, torch.arange(20)), (images[:0], torch.arange(0)), (images, torch.arange(20)))
    return next(iter(training_batches(data, settings, 20, 0, CPU).epoch(0)))[0].tolist()


def test_an_images_change_depends_on_its_row_and_not_on_its_batch():
    images = torch.rand(20, 3, 4, 4, generator=generator("x"))
    draw = flip_and_crop(flip=True, crop=2)(20, "a", 0, CPU)
    rows = torch.tensor([3, 17, 5])
    assert torch.equal(draw(images[rows], rows), draw(images, torch.arange(20))[rows])


def batches(kind, seed=0, **changes):
    inputs = torch.randint(256, (23, 3, 4, 4), generator=generator("inputs"), dtype=torch.uint8)
    given = {"augment": flip_and_crop(flip=True, crop=1), "prepare": Normalise((0.5,) * 3, (0.2,) * 3, 255.0)} | changes
    return kind(inputs, torch.arange(23), 5, seed, **given)


@pytest.mark.parametrize("skip", [0, 1, 4])
def test_streamed_batches_are_the_resident_ones_bit_for_bit(skip):
    resident, streamed = (list(batches(kind).epoch(3, skip)) for kind in (TensorBatches, StreamedBatches))
    assert len(resident) == len(streamed) == 5 - skip
    for a, b in zip(resident, streamed, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


@pytest.mark.parametrize("kind", [TensorBatches, StreamedBatches])
def test_an_epoch_resumed_in_its_middle_goes_on_with_the_same_bits(kind):
    whole, rest = list(batches(kind).epoch(1)), list(batches(kind).epoch(1, 3))
    for a, b in zip(whole[3:], rest, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


def test_a_streamed_epoch_can_be_left_in_its_middle():
    import threading

    before = threading.active_count()
    epoch = batches(StreamedBatches).epoch(0)
    next(epoch)
    epoch.close()
    assert threading.active_count() == before


def test_a_reading_error_reaches_the_training():
    broken = batches(StreamedBatches)
    broken.inputs = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)  # rows beyond it are asked for
    with pytest.raises((IndexError, RuntimeError)):
        list(broken.epoch(0))


def test_arms_of_one_seed_see_the_same_augmented_images():
    def images(seed, epoch):
        return torch.cat([x for x, _ in batches(TensorBatches, seed).epoch(epoch)])

    assert images(0, 1).shape == (23, 3, 4, 4)
    assert torch.equal(images(0, 1), images(0, 1))
    assert not torch.equal(images(0, 1), images(0, 2))
    assert not torch.equal(images(0, 1), images(1, 1))


def test_images_are_augmented_before_they_are_normalised():
    """So what moves in from outside is black, not grey."""
    (pixels, _), (floats, _) = (
        next(iter(batches(TensorBatches, **changes).epoch(0))) for changes in ({"prepare": None}, {})
    )
    assert pixels.dtype == torch.uint8
    torch.testing.assert_close(floats, (pixels.float() / 255 - 0.5) / 0.2)
    assert bool((floats == floats.min()).any())


@given(st.integers(2, 40), st.integers(1, 9), st.integers(1, 6), st.integers(0, 5))
def test_batches_that_are_made_several_at_once_are_those_made_one_by_one(examples, size, at_once, skip):
    inputs = torch.randint(256, (examples, 3, 4, 4), generator=generator("images"), dtype=torch.uint8)
    augment, prepare = flip_and_crop(flip=True, crop=1), Normalise((0.5,) * 3, (0.2,) * 3, 255.0)
    single = TensorBatches(inputs, torch.arange(examples), size, 0, augment, prepare)
    several = TensorBatches(inputs, torch.arange(examples), size, 0, augment, prepare)
    several._at_once = lambda: at_once
    ours, theirs = (list(batches.epoch(1, skip)) for batches in (several, single))
    assert len(ours) == len(theirs) == max(0, single.steps - skip)
    assert all(torch.equal(a, b) for pair in zip(ours, theirs, strict=True) for a, b in zip(*pair, strict=True))
