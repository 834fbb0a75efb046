"""Class names that splits number differently, words that readers take for missing, and paths that look like patterns."""

from pathlib import Path

import datasets
import pytest

from tombola.data import folder, huggingface
from tombola.errors import TombolaError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty current folder, and an own place for decoded data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path / "cache"))


def table(path, labels, names=None, x=None):
    """A file of numbers and labels; names: of its class labels, by default it has words."""
    kind = datasets.ClassLabel(names=names) if names else datasets.Value(type_of(labels))
    features = datasets.Features({"x": datasets.Value("float32"), "y": kind})
    values = [names.index(label) for label in labels] if names else labels
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    rows = {"x": [float(i) if x is None else x for i in range(len(labels))], "y": values}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)


def type_of(labels):
    return "string" if isinstance(labels[0], str) else "int64"


def classes(test_labels, test_names, train_names=("ape", "bee", "cat")):
    """The classes of the test split, where train has one of each name."""
    table("pets/train.parquet", sorted(train_names), list(train_names))
    table("pets/test.parquet", test_labels, test_names)
    return huggingface("pets", inputs=["x"], target="y").test[1].tolist()


@pytest.mark.parametrize("names", [["ape", "bee", "cat"], ["cat", "ape", "bee"], ["bee", "cat", "dog", "ape"]])
def test_classes_of_a_split_are_those_of_the_same_name_in_train(names):
    assert classes(["cat", "ape", "cat", "bee"], names) == [2, 0, 2, 1]


def test_the_numbers_are_those_of_train():
    assert classes(["cat", "ape"], ["ape", "bee", "cat"], ("cat", "bee", "ape")) == [0, 2]


def test_a_name_that_train_lacks_is_named():
    with pytest.raises(TombolaError, match="test has the label 'dog', which is none of the 3 classes of train"):
        classes(["dog", "ape"], ["ape", "dog"])


@pytest.mark.parametrize("labels", [["ape", "cat"], [0, 2]])
def test_classes_and_values_are_not_compared(labels):
    with pytest.raises(TombolaError, match=r"target column 'y' holds class in train, (text|whole numbers) in test"):
        classes(labels, None)


@pytest.mark.parametrize("word", ["NA", "null", "None", "nan", "N/A"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_class_may_have_a_name_that_readers_take_for_missing(word, ending):
    between = "," if ending == "csv" else "\t"
    for split in ("train", "test"):
        lines = [("x", "y"), ("1", word), ("2", "US"), ("3", word)]
        Path(f"{split}.{ending}").write_text("".join(between.join(line) + "\n" for line in lines))
    data = huggingface(f"*.{ending}", inputs=["x"], target="y")
    first = int(word > "US")
    assert data.train[1].tolist() == data.test[1].tolist() == [first, 1 - first, first]


def test_a_split_may_have_such_words_alone_and_an_empty_cell_stays_missing():
    Path("train.csv").write_text("x,y\n1,NA\n2,US\n")
    Path("test.csv").write_text("x,y\n1,NA\n2,NA\n")
    assert huggingface("*.csv", inputs=["x"], target="y").test[1].tolist() == [0, 0]
    Path("train.csv").write_text("x,y\n1,NA\n2,\n3,US\n")
    with pytest.raises(TombolaError, match="row 1 of train has no 'y'"):
        huggingface("*.csv", inputs=["x"], target="y")


@pytest.mark.parametrize(("own", "other"), [("a[12]", "a1"), ("exp*", "exp7"), ("q?", "q7"), ("[!a]", "b"), ("**", "c/d")])
def test_a_path_is_a_path_before_it_is_a_pattern(own, other):
    for name, value in ((own, 1.0), (other, 9.0)):
        for split in ("train", "test"):
            table(f"data/{name}/{split}.parquet", ["u", "v"] * 2, x=value)
            for kind in ("u", "v"):
                Path(f"images/{name}/{split}/{kind}").mkdir(parents=True, exist_ok=True)
                save_gray(f"images/{name}/{split}/{kind}/0.png", int(value))
    for data in (huggingface(f"data/{own}", inputs=["x"], target="y", normalise="none"), folder(f"images/{own}")):
        assert [set(part[0].flatten().tolist()) for part in (data.train, data.test)] == [{1.0}, {1.0}]
    one = huggingface(f"data/{own}/train.parquet", inputs=["x"], target="y", test=1, normalise="none")
    assert set(one.train[0].flatten().tolist()) == {1.0}


def save_gray(path, value):
    from PIL import Image

    Image.new("L", (2, 2), value).save(path)


def test_a_pattern_is_still_one():
    for name in ("run1", "run2"):
        for split in ("train", "test"):
            table(f"{name}/{split}.parquet", ["u", "v"])
    assert len(huggingface("run[12]/*.parquet", inputs=["x"], target="y").train[0]) == 4
