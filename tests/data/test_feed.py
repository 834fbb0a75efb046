"""Batches as functions of device tensors: those of the data, whatever the feed."""

import pytest
import torch
from torch import Tensor

from tombola.data.augment import flip_and_crop
from tombola.data.batches import LoaderBatches, TensorBatches
from tombola.data.feed import Copied, Gathered, copy_into, feed_of, kind_of, like
from tombola.data.normalise import Normalise


def batches(examples: int, size: int) -> TensorBatches:
    pixels = torch.arange(examples * 3 * 16, dtype=torch.uint8).view(examples, 3, 4, 4)
    return TensorBatches(
        pixels, torch.arange(examples), size, 0, flip_and_crop(flip=True, crop=1), Normalise((0.5,) * 3, (0.2,) * 3, 255)
    )


def fed(feed: Gathered | Copied, epoch: int, skip: int) -> list[tuple[Tensor, Tensor]]:
    kinds = enumerate(feed.steps(epoch, skip))
    return [tuple(part.clone() for part in feed.batch(torch.tensor([skip + i]), kind)) for i, kind in kinds]


@pytest.mark.parametrize(("examples", "size"), [(12, 4), (13, 4), (14, 4), (3, 8), (9, 8)])
def test_every_feed_gives_the_batches_of_the_data(examples: int, size: int):
    data = batches(examples, size)
    gathered, copied = feed_of(data, torch.device("cpu")), Copied(data, torch.device("cpu"))
    assert isinstance(gathered, Gathered)
    for epoch in range(3):
        for skip in (0, data.steps - 1):
            expected = list(data.epoch(epoch, skip))
            assert len(fed(gathered, epoch, skip)) == len(expected)
            for feed in (gathered, copied):
                for own, other in zip(fed(feed, epoch, skip), expected, strict=True):
                    assert torch.equal(own[0], other[0])
                    assert torch.equal(own[1], other[1])


def test_a_users_own_changes_of_images_and_loaders_are_copied():
    data = batches(12, 4)
    data.prepare = lambda pixels: pixels.float()
    assert isinstance(feed_of(data, torch.device("cpu")), Copied)
    assert isinstance(feed_of(LoaderBatches([(torch.zeros(2, 3), torch.zeros(2))], 2), torch.device("cpu")), Copied)


def test_a_smaller_last_batch_another_dtype_and_another_layout_are_captured_apart():
    images, labels = torch.zeros(8, 3, 4, 4), torch.zeros(8, dtype=torch.long)
    whole = kind_of((images, labels))
    assert kind_of((images + 1, labels + 1)) == whole
    laid_out = images.contiguous(memory_format=torch.channels_last)
    for other in ((images[:5], labels[:5]), (images.double(), labels), (laid_out, labels), {"x": images, "y": labels}):
        assert kind_of(other) != whole
    hash(kind_of({"x": images, "flags": [True, None]}))


@pytest.mark.parametrize("as_mapping", [False, True])
def test_a_batch_is_copied_into_the_captured_one_whose_memory_stays(as_mapping: bool):
    images = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(2)
    batch = {"x": images, "y": labels} if as_mapping else (images, labels)
    static = like(batch)
    own = list(static.values()) if as_mapping else list(static)
    places = [t.data_ptr() for t in own]
    assert kind_of(static) == kind_of(batch)
    copy_into(static, {"x": images + 1, "y": labels + 1} if as_mapping else (images + 1, labels + 1))
    assert torch.equal(own[0], images + 1)
    assert torch.equal(own[1], labels + 1)
    assert [t.data_ptr() for t in own] == places
