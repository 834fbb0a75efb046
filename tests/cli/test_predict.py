"""`tombola predict`: new inputs of every kind, by a shipped ticket, a file or a key; bad input is one sentence."""

import csv
import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import tombola
from tombola.data import digits, huggingface
from tombola.models import lenet, mlp
from tombola.predict.shipped import PICTURES, SHIPPED

PICTURE = str(PICTURES["digits"] / "3" / "digit.png")


def test_the_shipped_ticket_predicts_its_own_pictures(cli):
    result = cli("predict", "digits")
    assert result.exit_code == 0, result.output
    assert "10 inputs, 10 of 10 right by their folders' names" in result.stderr
    assert "3/digit.png" in result.stdout


@pytest.mark.parametrize("how", [[], ["--samples", "4"], ["--mean"]])
def test_a_picture_by_each_method(cli, how):
    rows = json.loads(cli("predict", "digits", PICTURE, "--json", "--quiet", *how).stdout)
    assert [row["class"] for row in rows] == ["3"]
    assert rows[0]["input"] == PICTURE
    assert ("epistemic" in rows[0]) == ("--mean" not in how)


def test_tables_never_lose_digits(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    narrow = cli("predict", "digits", PICTURE).stdout
    (row,) = json.loads(cli("predict", "digits", PICTURE, "--json").stdout)
    for name in ("probability", "epistemic", "aleatoric"):
        assert name in narrow
        assert f"{row[name]:.4g}" in narrow
    assert "…" not in narrow


def test_tickets_of_earlier_versions_are_read_by_the_data_that_they_name(cli, tmp_path):
    ticket = tombola.load(SHIPPED["digits"])
    info = {name: value for name, value in ticket.info.items() if name != "inputs"}
    replace(ticket, info=info).save(tmp_path / "old.safetensors")
    (old,), (new,) = (json.loads(cli("predict", name, PICTURE, "--json").stdout) for name in ("old.safetensors", "digits"))
    assert old == new


def test_a_data_set_of_the_hub_is_read_as_a_stream(cli, refused, monkeypatch):
    datasets = pytest.importorskip("datasets")
    pictures = [str(path) for path in sorted(PICTURES["digits"].rglob("*.png"))]
    rows = datasets.Dataset.from_dict({"image": pictures}, datasets.Features({"image": datasets.Image()}))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, streaming: {"test": rows.to_iterable_dataset()})
    found = json.loads(cli("predict", "digits", "owner/name", "--json").stdout)
    assert [row["class"] for row in found] == list("0123456789")
    assert "owner/name has no split 'train'; give one of test" in refused(
        "predict", "digits", "owner/name", "--split", "train"
    )


@pytest.fixture
def arrays(tmp_path):
    """The test images as files of each kind, and the predictions of Python."""
    images, labels = digits().test
    images, labels = images[:30], labels[:30]
    np.save(tmp_path / "x.npy", images.numpy())
    np.savez(tmp_path / "x.npz", inputs=images.numpy(), y=labels.numpy())
    ticket = tombola.load(SHIPPED["digits"])
    net = lenet((1, 8, 8), 10)
    return tmp_path, tombola.Predictive(ticket, net)(images)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".json"])
def test_arrays_are_written_as_python_predicts_them(cli, arrays, ending):
    folder, expected = arrays
    for source in ("x.npy", "x.npz"):
        out = folder / f"out{ending}"
        assert cli("predict", "digits", str(folder / source), "--out", str(out), "--batch-size", "7").exit_code == 0
        readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".json": pd.read_json}
        table = readers[ending](out)
        assert list(table["class"].astype(str)) == expected.names
        np.testing.assert_allclose(table["probability"], expected.confidence, rtol=1e-5)
        np.testing.assert_allclose(table["epistemic"], expected.epistemic, atol=1e-6)
        np.testing.assert_allclose(table["aleatoric"], expected.aleatoric, atol=1e-6)
        assert list(table["input"].astype(str)) == [str(i) for i in range(30)]


def test_abstention_is_chosen_on_validation_examples(cli, arrays):
    folder, _ = arrays
    result = cli("predict", "digits", str(folder / "x.npy"), "--abstain-at", "coverage=0.5", "--json")
    refused = [row["abstained"] for row in json.loads(result.stdout)]
    assert 0 < sum(refused) < 30
    assert f"{sum(refused)} abstained" in result.stderr
    assert "held-out examples are accepted" in result.stderr


def test_pictures_in_parquet_are_decoded_as_files(cli, tmp_path):
    datasets = pytest.importorskip("datasets")
    pictures = sorted(PICTURES["digits"].rglob("*.png"))
    features = datasets.Features({"image": datasets.Image()})
    table = datasets.Dataset.from_dict({"image": [str(path) for path in pictures]}, features)
    table.to_parquet(tmp_path / "pictures.parquet")
    rows = json.loads(cli("predict", "digits", str(tmp_path / "pictures.parquet"), "--json").stdout)
    whole = json.loads(cli("predict", "digits", "--json").stdout)
    assert [row["probability"] for row in rows] == [row["probability"] for row in whole]


@pytest.fixture(scope="module")
def columns(tmp_path_factory):
    """A folder, a table of two numbers and a word, and the path of a ticket of a regression on it."""
    folder = tmp_path_factory.mktemp("columns")
    draws = np.random.RandomState(0).normal(size=(200, 2))
    table = pd.DataFrame({"a": draws[:, 0], "word": "x", "b": draws[:, 1] * 10, "y": draws.sum(1)})
    table.to_csv(folder / "train.csv", index=False)
    data = huggingface(str(folder / "train.csv"), inputs=["a", "b"], target="y", test=50)
    net = mlp((2,), 1, (16,))
    train = tombola.TrainSettings(epochs=10, batch_size=16, lr=0.03, likelihood="gaussian", learn_noise=True, heat=0.1)
    pair = data.prepare(data.train[0]), data.train[1]
    ticket = tombola.find_tickets(net, pair, train=train, prune=tombola.PruneSettings(levels=0), progress=False)[0]
    described = tombola.describe(ticket, data.signature, model="mlp", args={"hidden": [16]})
    described.save(folder / "ticket.safetensors")
    return folder, table, str(folder / "ticket.safetensors")


def test_a_ticket_of_columns_predicts_intervals(cli, columns):
    folder, table, ticket = columns
    table[["b", "word", "a"]].to_csv(folder / "new.csv", index=False)
    rows = json.loads(cli("predict", ticket, str(folder / "new.csv"), "--json").stdout)
    assert len(rows) == 200
    assert all(row["low"] < row["mean"] < row["high"] for row in rows)
    error = np.sqrt(np.mean((np.array([row["mean"] for row in rows]) - table["y"]) ** 2))
    assert error < 1
    assert rows[0].keys() == {"input", "mean", "std", "epistemic", "aleatoric", "low", "high"}


def test_bad_tables_are_refused(refused, columns):
    folder, table, ticket = columns
    table[["a"]].to_csv(folder / "narrow.csv", index=False)
    assert "lacks the column 'b'" in refused("predict", ticket, str(folder / "narrow.csv"))
    table.assign(b="no")[["a", "b"]].to_csv(folder / "words.csv", index=False)
    assert "row 0 of" in refused("predict", ticket, str(folder / "words.csv"))
    table.assign(b=[1.0] * 7 + [np.nan] * 193)[["a", "b"]].to_csv(folder / "gaps.csv", index=False)
    assert "row 7 of" in refused("predict", ticket, str(folder / "gaps.csv"))
    (folder / "empty.csv").write_text("a,b\n")
    assert "has no rows" in refused("predict", ticket, str(folder / "empty.csv"))
    (folder / "bad.parquet").write_text("no")
    assert "can't be read" in refused("predict", ticket, str(folder / "bad.parquet"))
    assert "regression" in refused("predict", ticket, str(folder / "train.csv"), "--abstain-at", "coverage=0.5")


def test_bad_pictures_are_refused(refused, tmp_path):
    Image.new("L", (28, 28)).save(tmp_path / "large.png")
    assert "28x28 pixels, the ticket takes 8x8" in refused("predict", "digits", "large.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert "broken.png can't be decoded" in refused("predict", "digits", "broken.png")
    Image.new("RGBA", (8, 8)).save(tmp_path / "clear.png")
    assert "clear.png is transparent" in refused("predict", "digits", "clear.png")
    (tmp_path / "empty").mkdir()
    assert "folder empty has no pictures" in refused("predict", "digits", "empty")
    for name in ("3", "cat"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "pets" / name / "it.png")
    assert "pets/cat is none of the ticket's classes" in refused("predict", "digits", "pets")


def test_pictures_are_resized_on_request_and_colour_becomes_gray(cli, tmp_path):
    Image.open(PICTURE).resize((16, 16)).convert("RGB").save(tmp_path / "large.png")
    (row,) = json.loads(cli("predict", "digits", "large.png", "--resize", "--json").stdout)
    assert row["class"] == "3"


def test_bad_arrays_are_refused(refused, tmp_path):
    np.save(tmp_path / "wide.npy", np.zeros((2, 1, 9, 9), np.float32))
    assert "[2, 1, 9, 9]; the ticket takes [B, 1, 8, 8]" in refused("predict", "digits", "wide.npy")
    values = np.zeros((300, 1, 8, 8), np.float32)
    values[299, 0, 3, 3] = np.nan
    np.save(tmp_path / "nan.npy", values)
    assert "input 299 has a value that is NaN" in refused("predict", "digits", "nan.npy")
    np.save(tmp_path / "large.npy", np.full((2, 1, 8, 8), 16.0))
    assert "from 16 to 16; the ticket takes pixels in [0, 1]" in refused("predict", "digits", "large.npy")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    assert "is no array that can be read" in refused("predict", "digits", "objects.npy")
    np.save(tmp_path / "days.npy", np.zeros((2, 1, 8, 8), "datetime64[D]"))
    assert "holds datetime64[D]; give an array of numbers" in refused("predict", "digits", "days.npy")
    np.savez(tmp_path / "two.npz", a=values, b=values)
    assert "has the arrays a, b" in refused("predict", "digits", "two.npz")


def test_what_may_never_end_is_not_read(refused, tmp_path):
    """A pipe waits until somebody writes to it; /dev/zero fills the memory."""
    os.mkfifo("pipe.npy")
    os.symlink("/dev/zero", "zero.png")
    for name in ("pipe.npy", "zero.png"):
        assert f"{name} is no plain file" in refused("predict", "digits", name)
    for path in (tmp_path / "pipe.npy", "/dev/zero", "\0", tmp_path):
        pd.DataFrame({"image": [{"bytes": None, "path": str(path)}]}).to_parquet("rows.parquet")
        assert "'image' in row 0 is missing" in refused("predict", "digits", "rows.parquet")
    with open("large.png", "wb") as file:
        file.truncate(2**30)  # a hole, which takes no space
    assert "large.png can't be read: larger than 256 MB" in refused("predict", "digits", "large.png")


def test_a_damaged_table_is_one_sentence(refused, tmp_path):
    """`datasets` logs what it cannot read, in several lines."""
    for name, content in (("x.jsonl", b'{"a": 1}\n[]\n'), ("y.parquet", b"PAR1xxxxPAR1"), ("z.json", b"{")):
        (tmp_path / name).write_bytes(content)
        assert f"{name} can't be read" in refused("predict", "digits", name)


def test_bad_commands_are_refused(refused, tmp_path):
    assert "no file nothing" in refused("predict", "nothing", PICTURE)
    assert "there is no nowhere.png" in refused("predict", "digits", "nowhere.png")
    (tmp_path / "it.doc").touch()
    assert "it.doc is of no known kind (.doc)" in refused("predict", "digits", "it.doc")
    assert "--moments and --mean are both given" in refused("predict", "digits", PICTURE, "--mean", "--moments")
    assert "--abstain-at is 'half'" in refused("predict", "digits", PICTURE, "--abstain-at", "half")
    assert "coverage is 2.0; it must be" in refused("predict", "digits", PICTURE, "--abstain-at", "coverage=2")
    assert "risk=0.0001 cannot be promised by 180" in refused("predict", "digits", PICTURE, "--abstain-at", "risk=0.0001")
    assert "written as .csv, .parquet, .json" in refused("predict", "digits", PICTURE, "--out", "it.txt")
    data = digits()
    net = lenet((1, 8, 8), 10)
    ticket = tombola.Bayesian(net).ticket()
    ticket.save(tmp_path / "plain.safetensors")
    assert "does not name its model" in refused("predict", "plain.safetensors", PICTURE)
    assert "does not say what its inputs are" in refused("predict", "plain.safetensors", PICTURE, "--model", "lenet")
    tombola.describe(ticket, data.signature, model="lenet").save(tmp_path / "described.safetensors")
    assert refused("predict", "plain.safetensors") == (
        "no inputs are given for plain.safetensors; give a picture, a folder, a table or an array"
    )
    replace(tombola.load(SHIPPED["digits"]), trained=None, statistics=None).save(tmp_path / "untrained.safetensors")
    assert "no trained state" in refused("predict", "untrained.safetensors", PICTURE)


def test_output_is_whole_or_missing(refused, cli, tmp_path):
    for name in ("a", "b"):
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "pictures").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "pictures" / "a.png")
    (tmp_path / "pictures" / "b.png").write_bytes(b"no picture")
    refused("predict", "digits", "pictures", "--out", "out.csv", "--batch-size", "1")
    assert not list(tmp_path.glob("out.csv*"))
    assert cli("predict", "digits", "a.png", "--out", "out.csv").exit_code == 0
    with open(tmp_path / "out.csv") as file:
        assert len(list(csv.DictReader(file))) == 1
