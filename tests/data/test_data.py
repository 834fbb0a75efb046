"""Data sets: sizes, splits, fingerprints, and what is refused."""

import hashlib
import importlib
import json

import numpy as np
import pytest
import torch

from tombola.data import Dataset, Normalise, digits, load_data, split, training_batches
from tombola.data.batches import StreamedBatches
from tombola.data.placement import fits
from tombola.data.signature import Signature
from tombola.errors import TombolaError
from tombola.settings import DataSettings


def some(**changes):
    """Four examples to train on, two to validate, two to test, 0 to 2 their classes."""
    inputs = torch.arange(16.0).view(8, 2)
    targets = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    splits = {
        "train": (inputs[:4], targets[:4]),
        "validation": (inputs[4:6], targets[4:6]),
        "test": (inputs[6:], targets[6:]),
    }
    return Dataset("some", **splits | changes)


def splits(dataset):
    return {name: getattr(dataset, name) for name in ("train", "validation", "test")}


def rows(dataset):
    return {name: getattr(dataset, name)[0].flatten(1) for name in ("train", "validation", "test")}


def test_digits_are_1797_images_in_ten_classes():
    data = digits()
    assert {name: len(inputs) for name, inputs in rows(data).items()} == {"train": 1257, "validation": 180, "test": 360}
    assert (data.input_shape, data.outputs, data.is_classification) == ((1, 8, 8), 10, True)
    everything = torch.cat([data.train[0], data.validation[0], data.test[0]])
    assert everything.dtype == torch.float32
    assert everything.min() == 0
    assert everything.max() == 1
    labels = torch.cat([data.train[1], data.validation[1], data.test[1]])
    # the counts in scikit-learn's description of the data
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_are_scikit_learns_bit_for_bit():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().div(16).view(-1, 1, 8, 8)
    known = split("digits", images, torch.from_numpy(labels).long(), validation=180, test=360)
    for part in ("train", "validation", "test"):
        assert all(map(torch.equal, getattr(digits(), part), getattr(known, part)))


def test_digits_without_scikit_learn_are_refused_in_a_sentence(monkeypatch):
    module = importlib.import_module("tombola.data.digits")  # by this name the package has the function
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(TombolaError, match=r"pip install scikit-learn"):
        digits()


def test_a_split_is_a_partition_that_only_the_name_draws():
    inputs = torch.arange(100.0).view(100, 1)
    targets = torch.arange(100)
    torch.manual_seed(1)
    data = split("mine", inputs, targets, validation=20, test=30)
    parts = [data.train, data.validation, data.test]
    assert [len(part[0]) for part in parts] == [50, 20, 30]
    assert sorted(torch.cat([part[0] for part in parts]).flatten().tolist()) == list(range(100))
    assert all(torch.equal(part[0].flatten().long(), part[1]) for part in parts)
    torch.manual_seed(2)
    assert split("mine", inputs, targets, validation=20, test=30).fingerprint == data.fingerprint
    assert split("other", inputs, targets, validation=20, test=30).fingerprint != data.fingerprint


def test_a_split_that_leaves_nothing_is_refused():
    with pytest.raises(TombolaError, match=r"'mine': 1 \+ 2 held-out examples leave nothing of 3"):
        split("mine", torch.ones(3, 1), torch.ones(3), validation=1, test=2)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("which", [0, 1])
def test_one_other_number_is_another_fingerprint(part, which):
    before = some()
    changed = [value.clone() for value in getattr(before, part)]
    changed[which].view(-1)[-1] += 1
    assert some(**{part: tuple(changed)}).fingerprint != before.fingerprint


def test_the_fingerprint_sees_dtypes_and_shapes_but_not_devices_or_strides():
    data = some()
    inputs, targets = data.train
    assert some(train=(inputs.double(), targets)).fingerprint != data.fingerprint
    wider = {name: (values[0][:, None], values[1]) for name, values in splits(data).items()}
    assert some(**wider).fingerprint != data.fingerprint
    assert some(train=(inputs.t().contiguous().t(), targets)).fingerprint == data.fingerprint
    assert data.to("cpu").fingerprint == data.fingerprint


def test_the_fingerprint_is_a_hash_of_dtypes_shapes_and_bytes():
    """As when the first stages were stored: another formula would run all of them again."""
    data, total = some(), hashlib.sha256()
    for values in (v for part in splits(data).values() for v in part):
        total.update(f"{values.dtype} {tuple(values.shape)}".encode() + values.numpy().tobytes())
    assert data.fingerprint == total.hexdigest()[:16]


def test_a_split_and_its_neighbour_do_not_run_into_each_other():
    """An example moved from validation to test changes the fingerprint although all numbers are the same."""
    data = some()
    inputs, targets = (torch.cat([data.validation[i], data.test[i]]) for i in (0, 1))
    moved = some(validation=(inputs[:1], targets[:1]), test=(inputs[1:], targets[1:]))
    assert moved.fingerprint != data.fingerprint


def test_splits_of_another_shape_or_with_negative_labels_are_refused():
    with pytest.raises(TombolaError, match=r"inputs of test have shape \[3\], of train \[2\]; give all the same"):
        some(test=(torch.ones(2, 3), torch.ones(2).long()))
    with pytest.raises(TombolaError, match=r"validation has the label -1; classes count from 0"):
        some(validation=(torch.ones(2, 2), torch.tensor([0, -1])))


def test_data_larger_than_memory_streams_and_is_never_read_whole():
    """300 GB that are one image repeated: making them, asking for their size and the first batch take no time."""
    images = torch.full((1, 3, 224, 224), 7, dtype=torch.uint8).expand(2_000_000, 3, 224, 224)
    labels = torch.arange(2).repeat(1_000_000)
    few = images[:2], labels[:2]
    data = Dataset("huge", (images, labels), few, few, Normalise((0.0,) * 3, (1.0,) * 3, 255.0), "digest")
    assert (data.outputs, data.nbytes // 10**9, data.fingerprint != "") == (2, 301, True)
    assert not fits(data, torch.device("cpu"))
    batches = training_batches(data, DataSettings(), 4, 0, torch.device("cpu"))
    assert isinstance(batches, StreamedBatches)
    inputs, _ = next(batches.epoch(0))
    torch.testing.assert_close(inputs, torch.full((4, 3, 224, 224), 7 / 255))
    assert fits(some(), torch.device("cpu"))


EMPTY = (torch.ones(0, 2), torch.ones(0).long())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": (torch.ones(3, 2), torch.ones(2).long())}, "train has 3 inputs for 2 targets"),
        ({"test": (torch.ones(3, 2), torch.ones(4).long())}, "test has 3 inputs for 4 targets"),
        ({"train": EMPTY}, "the train or the test split is empty"),
        ({"test": EMPTY}, "the train or the test split is empty"),
        ({"train": (torch.tensor([[1.0, float("nan")]]), torch.ones(1).long())}, "train inputs are not finite"),
        ({"train": (torch.tensor([[1.0, float("inf")]]), torch.ones(1).long())}, "train inputs are not finite"),
    ],
)
def test_bad_tensors_are_refused_with_the_name(changes, said):
    with pytest.raises(TombolaError, match=f"data 'some': {said}"):
        some(**changes)


def test_an_empty_validation_split_is_fine():
    assert some(validation=EMPTY).outputs == 3


def test_outputs_are_classes_or_dimensions_of_the_target():
    assert some().outputs == 3
    real = {name: (inputs, torch.ones(len(inputs), 2)) for name, inputs in rows(some()).items()}
    assert (some(**real).outputs, some(**real).is_classification) == (2, False)
    flat = {name: (inputs, torch.ones(len(inputs))) for name, inputs in rows(some()).items()}
    assert some(**flat).outputs == 1


def test_a_factory_of_the_users_own(user_module):
    user_module(
        "my_data",
        """
        import torch
        from tombola import Dataset

        def noise(n=10):
            split = torch.ones(n, 2), torch.arange(n)
            return Dataset("noise", split, split, split)

        def nothing():
            return None

        def broken():
            raise OSError("the disk\\nis gone")
        """,
    )
    assert load_data("my_data:noise", {"n": 4}).outputs == 4
    with pytest.raises(TombolaError, match=r"data 'my_data:nothing' returned NoneType, not a tombola Dataset"):
        load_data("my_data:nothing", {})
    with pytest.raises(TombolaError, match=r"data my_data:broken failed with args \{\}: OSError: the disk is gone"):
        load_data("my_data:broken", {})
    with pytest.raises(TombolaError, match=r"does not fit args \{'m': 3\}.*'m'"):
        load_data("my_data:noise", {"m": 3})


def test_an_unknown_name_is_refused_with_what_was_meant():
    with pytest.raises(TombolaError, match=r"unknown data set 'digit': did you mean 'digits'\?"):
        load_data("digit", {})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"classes": ["a", "b"]}, {"classes": ["a", "b"]}),
        ({"classes": np.array(["a", "b"])}, {"classes": ["a", "b"]}),
        ({"normalise": Normalise((np.float32(0.5),), (0.25,))}, {"normalise": {"mean": [0.5], "std": [0.25], "scale": 1.0}}),
        ({"decoding": {"columns": tuple(np.array(["x", "y"]))}}, {"columns": ["x", "y"]}),
    ],
)
def test_what_a_ticket_keeps_of_data_is_plain_json(given: dict, kept: dict):
    """Names and numbers of numpy's and lists, as a data set of one's own may have them."""
    inputs, labels = torch.randn(6, 2), torch.arange(6) % 2
    found = Dataset("own", *3 * [(inputs, labels)], **given).signature.to_json()
    again = json.loads(json.dumps(found))
    assert {name: again[name] for name in kept} == kept
    assert Signature.of_json(again).to_json() == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"classes": (1, 2)}, r"data 'own': classes of the inputs is \(1, 2\); it must be texts"),
        ({"decoding": {"columns": ("x", 1)}}, "columns of the inputs is"),
        ({"decoding": {"size": "8"}}, "size of the inputs is '8'; it must be 1 to 8192"),
        ({"decoding": {"pool": True}}, "pool of the inputs is True"),
        ({"normalise": Normalise((torch.tensor(0.5),), (0.25,))}, "normalise of the inputs is"),
        ({"normalise": Normalise((0.5, 0.5, 0.5), (0.25,))}, "normalise of the inputs is"),
        ({"normalise": Normalise((0.5,), (0.0,))}, "it must be numbers, std and scale above 0"),
    ],
)
def test_what_a_ticket_could_not_keep_is_refused_before_a_training(given: dict, said: str):
    inputs, labels = torch.randn(6, 2), torch.arange(6) % 2
    with pytest.raises(TombolaError, match=said):
        Dataset("own", *3 * [(inputs, labels)], **given)
