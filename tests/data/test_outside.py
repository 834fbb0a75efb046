"""Outliers near and far, and classes that are left out."""

import gzip
import struct

import pytest
import torch

from tombola.data import Dataset, digits, leave_out, load_data
from tombola.data.outside import OUTSIDE, SETS, defaults, digest, inputs_of, kind_of
from tombola.errors import TombolaError
from tombola.metrics import uncertainty_columns


def colours(name: str = "colours", n: int = 30) -> Dataset:
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 3, 32, 32), generator=stream, dtype=torch.uint8)
    labels = torch.arange(n) % 5
    return Dataset(name, (images, labels), (images[:0], labels[:0]), (images, labels))


@pytest.fixture
def fashion(tmp_path):
    """A file of four gray images of 28x28 in the format of Fashion-MNIST."""
    pixels = bytes(range(256)) * 12 + bytes(64)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">HBBIII", 0, 8, 3, 4, 28, 28) + pixels))
    return path


def test_every_set_has_its_columns():
    assert uncertainty_columns.OUTSIDE == SETS


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_far_set_is_stored_as_the_data_and_is_the_same_at_every_call(name):
    found = inputs_of(name, colours(), 20)
    assert found.shape == (20, 3, 32, 32)
    assert found.dtype == torch.uint8
    assert found.double().std() > 30
    assert torch.equal(found, inputs_of(name, colours(), 20))
    assert len(found.flatten(1).unique(dim=0)) == 20
    assert digest(name) == ""


def test_noise_is_uniform_in_every_pixel():
    values = inputs_of("noise", colours(), 200).double() / 255
    assert values.mean() == pytest.approx(0.5, abs=3e-3)
    assert values.var() == pytest.approx(1 / 12, rel=0.01)


def test_digits_are_those_of_scikit_learn_enlarged():
    from sklearn.datasets import load_digits

    found = inputs_of("digits", colours(), 2000)
    assert len(found) == 1797
    small = torch.nn.functional.avg_pool2d(found[:9, :1].double(), 4)[:, 0] / 255
    original = torch.from_numpy(load_digits().images[:9] / 16)
    assert torch.corrcoef(torch.stack([small.flatten(), original.flatten()]))[0, 1] > 0.97
    assert (found[:, 0] == found[:, 2]).all()


def test_a_file_of_images_is_read_and_resized(fashion):
    found = inputs_of(str(fashion), colours(), 3)
    assert found.shape == (3, 3, 32, 32)
    assert kind_of(str(fashion)) == "file"
    before = digest(str(fashion))
    fashion.write_bytes(struct.pack(">HBBIII", 0, 8, 3, 2, 2, 2) + bytes(8))  # uncompressed, too
    assert (inputs_of(str(fashion), colours(), 3) == 0).all()
    assert digest(str(fashion)) != before


def test_classes_are_left_out_and_the_others_numbered_anew():
    whole, data = digits(), load_data("digits", {"leave_out": [9, 2]})
    assert data.name == "digits without 2, 9"
    assert data.outputs == 8
    kept = [0, 1, 3, 4, 5, 6, 7, 8]
    for (inputs, targets), (before, labels) in zip(
        (data.train, data.validation, data.test), (whole.train, whole.validation, whole.test), strict=True
    ):
        stay = (labels != 2) & (labels != 9)
        assert torch.equal(inputs, before[stay])
        assert torch.equal(torch.tensor(kept)[targets], labels[stay])
    inputs, labels = whole.test
    assert torch.equal(data.outside, inputs[(labels == 2) | (labels == 9)])
    assert torch.equal(inputs_of("near", data, 1000), data.outside)
    assert len({whole.fingerprint, data.fingerprint, load_data("digits", {"leave_out": [9]}).fingerprint}) == 3
    assert data.fingerprint != Dataset(data.name, data.train, data.validation, data.test).fingerprint


def test_the_defaults_are_all_sets_but_the_data_itself():
    assert defaults(colours()) == ["noise", "textures", "digits"]
    assert defaults(digits()) == ["noise", "textures"]
    assert defaults(leave_out(digits(), [0])) == ["near", "noise", "textures"]


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ([], "give different classes of 0 to 4"),
        ([5], r"leave_out is \[5\]"),
        ([1, 1], "different classes"),
        ([0, 1, 2, 3], "two of them not"),
        ("12", "leave_out is '12'"),
        ([True], "different classes"),
    ],
)
def test_classes_that_cannot_be_left_out_are_refused(classes, words):
    with pytest.raises(TombolaError, match=words):
        leave_out(colours(), classes)


def test_a_regression_has_no_class_to_leave_out():
    with pytest.raises(TombolaError, match="targets are real numbers"):
        load_data("diabetes", {"leave_out": [1]})


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("near", colours(), "leaves no class out"),
        ("digits", digits(), "is the data itself"),
        ("no/such/file", colours(), "no file"),
        (__file__, colours(), "is no idx file of images"),
    ],
)
def test_sets_that_are_none_are_refused(name, data, words):
    with pytest.raises(TombolaError, match=words):
        inputs_of(name, data, 3)
