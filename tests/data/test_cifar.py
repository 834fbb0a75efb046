"""The real CIFAR-10, where its parquet files lie beside the project: 50,000 and 10,000 JPEGs of quality 75."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch

from tombola import load
from tombola.cli.run import run_studies
from tombola.data import huggingface, training_batches
from tombola.settings import DataSettings

FILES = Path(__file__).parents[2] / "../shared/data/cifar10"
FIRST = 1000

pytestmark = pytest.mark.skipif(not list(FILES.glob("*.parquet")), reason=f"no CIFAR-10 in {FILES}")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The first images of both files: to decode all takes ten seconds."""
    folder = tmp_path_factory.mktemp("cifar10")
    for whole in FILES.glob("*.parquet"):
        first = next(pyarrow.parquet.ParquetFile(whole).iter_batches(FIRST))
        pyarrow.parquet.write_table(pyarrow.Table.from_batches([first]), folder / whole.name)
    return folder


@pytest.fixture(scope="module")
def cifar(files):
    return huggingface(f"{files}/*.parquet")


@pytest.mark.slow
def test_it_is_whole_and_balanced_and_never_taken_for_the_lossless_one():
    cifar = huggingface(f"{FILES}/*.parquet")
    assert (cifar.name, cifar.outputs, cifar.input_shape) == ("cifar10-jpeg75", 10, (3, 32, 32))
    assert (len(cifar.train[0]), len(cifar.test[0]), cifar.train[0].dtype) == (50_000, 10_000, torch.uint8)
    assert cifar.train[1].bincount().tolist() == [5000] * 10
    assert cifar.test[1].bincount().tolist() == [1000] * 10


def test_images_are_what_pillow_decodes(cifar, files):
    from PIL import Image

    for part, split in (("train", cifar.train), ("test", cifar.test)):
        (file,) = files.glob(f"{part}-*.parquet")
        table = pyarrow.parquet.read_table(file, columns=["img", "label"])
        for row in (0, 234, len(table) - 1):
            there = Image.open(io.BytesIO(table["img"][row].as_py()["bytes"]))
            assert np.array_equal(split[0][row].permute(1, 2, 0).numpy(), np.asarray(there))
            assert int(split[1][row]) == table["label"][row].as_py()


def test_the_fingerprint_is_stable_over_loads(cifar, files):
    assert huggingface(f"{files}/*.parquet").fingerprint == cifar.fingerprint
    assert replace(cifar, digest="").fingerprint == cifar.fingerprint  # hashed from the mapped file


def test_its_normalised_pixels_are_near_mean_zero_and_variance_one(cifar):
    x = cifar.prepare(cifar.train[0])
    assert x.mean((0, 2, 3)).abs().max() < 0.2
    assert (x.std((0, 2, 3)) - 1).abs().max() < 0.2


def test_streamed_and_resident_batches_of_it_are_equal(cifar):
    def batches(resident):
        settings = DataSettings(flip=True, crop=4, resident=resident)
        return training_batches(cifar, settings, 128, 0, torch.device("cpu")).epoch(0, 3)

    both = list(zip(batches(True), batches(False), strict=True))
    assert len(both) == 5
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in both)


def test_a_subset_has_as_many_images_of_each_class():
    data = huggingface(f"{FILES}/*.parquet", subset=200, subset_test=100, validation=50, pool=2)
    assert data.input_shape == (3, 16, 16)
    assert [part[1].bincount().tolist() for part in (data.train, data.validation, data.test)] == [
        [20] * 10,
        [5] * 10,
        [10] * 10,
    ]


@pytest.mark.slow
def test_the_shipped_study_of_it_learns_from_a_thousand_images(tmp_path):
    """Bayesian and deterministic ResNet-20 by `tombola run`: losses fall, records and page are there."""
    small = [f"data.args={{path: {FILES}, subset: 1000, subset_test: 200}}", "train.epochs=3", "prune.levels=1"]
    changes = [*small, "train.lr=0.001", "evaluate.samples=2", "arms=[ticket, deterministic]"]
    assert run_studies(["cifar10"], out=tmp_path / "cifar10", changes=changes, device="cpu") == 0
    records = pd.read_parquet(tmp_path / "cifar10" / "records.parquet")
    assert set(records["data"]) == {"cifar10-jpeg75"}
    assert len(records) == 4
    for key in records["ticket"]:
        ticket = load(tmp_path / "tombola-stages" / key / "ticket.safetensors")
        losses = [row["loss"] for row in ticket.info["history"]]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < losses[0] - 0.1
    assert (tmp_path / "cifar10" / "report.html").is_file()
