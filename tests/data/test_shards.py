"""Batches from shards: each example once an epoch, in an order of seed and epoch alone, in memory that does not grow."""

import threading
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

import tombola
from support.tars import png, write_tars
from tombola.data.shards import ShardBatches, StreamedShards, TarShards, image_decoder
from tombola.errors import TombolaError
from tombola.settings import PruneSettings, TrainSettings

SIDE = 8


class Lists:
    """Shards in memory, that count what is read."""

    def __init__(self, count: int, each: int):
        self.parts = [range(first, min(first + each, count)) for first in range(0, count, each)]
        self.reads = 0

    @property
    def count(self):
        return len(self.parts)

    def read(self, shard):
        for i in self.parts[shard]:
            self.reads += 1
            yield {"i": i}

    def examples(self):
        return sum(map(len, self.parts))


def number(example):
    return torch.tensor([float(example["i"])]), example["i"]


def order_of(batches, epoch, skip=0):
    return [targets.tolist() for _, targets in batches.epoch(epoch, skip)]


def test_each_example_is_given_once_in_an_order_of_seed_and_epoch():
    batches = ShardBatches(Lists(103, 10), number, 8, seed=0, buffer=16)
    first = order_of(batches, 0)
    assert len(first) == batches.steps == 13
    assert sorted(i for batch in first for i in batch) == list(range(103))
    assert first == order_of(ShardBatches(Lists(103, 10), number, 8, seed=0, buffer=16, workers=5), 0)
    assert first != order_of(batches, 1)
    assert first != order_of(ShardBatches(Lists(103, 10), number, 8, seed=1, buffer=16), 0)


def test_the_middle_of_an_epoch_is_resumed_without_decoding_what_came_before():
    decoded = []

    def decode(example):
        decoded.append(example["i"])
        return number(example)

    batches = ShardBatches(Lists(100, 10), decode, 8, seed=0, buffer=16)
    whole = order_of(batches, 2)
    decoded.clear()
    assert order_of(batches, 2, skip=9) == whole[9:]
    assert len(decoded) == 100 - 9 * 8


def test_the_order_is_random_across_shards():
    mean = np.mean([order_of(ShardBatches(Lists(1000, 50), number, 1000, seed=s), 0)[0] for s in range(20)], axis=0)
    assert abs(mean - 499.5).max() < 5 * 1000 / 12**0.5 / 20**0.5
    assert abs(np.corrcoef(mean, np.arange(1000))[0, 1]) < 0.2


def test_a_stop_in_the_middle_leaves_no_thread_behind():
    before = threading.active_count()
    given = ShardBatches(Lists(1000, 50), number, 10, seed=0).epoch(0)
    assert len(list(islice(given, 3))) == 3
    given.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("examples", [99, 101])
def test_another_number_of_examples_is_refused(examples):
    with pytest.raises(TombolaError, match=f"have not {examples} examples in epoch 1"):
        order_of(ShardBatches(Lists(100, 10), number, 8, seed=0, examples=examples), 0)


def test_tar_files_are_counted_once_and_decoded(tmp_path, monkeypatch):
    pytest.importorskip("webdataset")
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path / "cache"))
    known = np.random.default_rng(1).integers(256, size=(25, SIDE, SIDE, 3), dtype=np.uint8)
    shards = TarShards(write_tars(tmp_path, 25, 10, SIDE, pixels=lambda i: known[i]))
    assert shards.count == 3
    assert shards.examples() == 25
    monkeypatch.setattr("tarfile.open", lambda *_: pytest.fail("counted again"))
    assert TarShards(str(tmp_path / "train-*.tar")).examples() == 25
    monkeypatch.undo()
    batches = ShardBatches(shards, image_decoder(SIDE), 8, seed=0)
    for inputs, targets in batches.epoch(0):
        assert torch.equal(inputs, torch.from_numpy(known[targets.numpy()]).permute(0, 3, 1, 2))


def test_a_hugging_face_stream_gives_the_same_examples():
    datasets = pytest.importorskip("datasets")
    stream = datasets.Dataset.from_dict({"i": list(range(40))}).to_iterable_dataset(num_shards=4)
    batches = ShardBatches(StreamedShards(stream), number, 8, seed=0, buffer=10)
    assert batches.examples == 40
    assert order_of(batches, 0) == order_of(ShardBatches(Lists(40, 10), number, 8, seed=0, buffer=10), 0)


def test_tickets_are_found_on_shards():
    def decode(example):
        x = torch.randn(4, generator=torch.Generator().manual_seed(example["i"]))
        return x, int(x[0] > 0)

    batches = ShardBatches(Lists(200, 20), decode, 20, seed=0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    train = TrainSettings(epochs=3, lr=0.03)
    dense, sparse = tombola.find_tickets(module, batches, train=train, prune=PruneSettings(levels=1), progress=False)
    assert dense.info["history"][-1]["loss"] < dense.info["history"][0]["loss"]
    assert sparse.mask.sum() < dense.mask.sum()


def test_bad_input_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(TombolaError, match="there are no shards"):
        TarShards(str(tmp_path / "none-*.tar"))
    (tmp_path / "bad.tar").write_bytes(b"no tar file")
    with pytest.raises(TombolaError, match=r"bad\.tar can't be read as a tar file"):
        TarShards(str(tmp_path / "bad.tar")).examples()
    with pytest.raises(TombolaError, match="buffer is 0"):
        ShardBatches(Lists(10, 5), number, 2, seed=0, buffer=0)
    with pytest.raises(TombolaError, match="has none of cls;label"):
        image_decoder(SIDE)({"__key__": "one", "png": b""})


@pytest.mark.slow
def test_a_hundred_thousand_images_take_no_more_memory_than_some(tmp_path, monkeypatch):
    """Peak resident memory of an epoch, less that before, is below 150 MB; order and count are those of an epoch."""
    pytest.importorskip("webdataset")
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(256, size=(1000, SIDE, SIDE, 3), dtype=np.uint8)
    pictures = [png(one) for one in pixels]  # each with its class, a hundred times
    shards = TarShards(write_tars(tmp_path, 100_000, 5000, SIDE, pixels=lambda i: pictures[i % 1000]))
    batches = ShardBatches(shards, image_decoder(SIDE), 256, seed=0)
    assert batches.examples == 100_000
    before, peak, seen = _resident(), 0.0, torch.zeros(1000, dtype=torch.int64)
    for inputs, targets in batches.epoch(0):
        seen += torch.bincount(targets, minlength=1000)
        assert inputs.shape[1:] == (3, SIDE, SIDE)
        peak = max(peak, _resident())
    assert seen.tolist() == [100] * 1000
    print(f"\n{peak - before:.0f} MB more at the peak of an epoch of 100,000 images")
    assert peak - before < 150


def _resident() -> float:
    """Return the megabytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6
