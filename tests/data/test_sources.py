"""Data from tables and folders: what is read, what it is called, and what is refused."""

import io
import json
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from tombola.data import IMAGENET, folder, huggingface, load_data
from tombola.data.images import Decoder, jpeg_quality
from tombola.errors import TombolaError


def pixels(seed, size=(8, 8), channels=3):
    shape = (*size, channels) if channels > 1 else size
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


IMAGES = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["ape", "bee", "cat"])})


def write(path, images, labels, features=IMAGES):
    """A parquet file in the hub's layout."""
    names = list(features)
    cells = [{"bytes": data, "path": None} if isinstance(data, bytes) else data for data in images]
    datasets.Dataset.from_dict({names[0]: cells, names[1]: labels}, features=features).to_parquet(path)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder, and an own place for decoded data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pets").mkdir()
    return tmp_path


@pytest.fixture
def pets(here):
    """12 images to train on and 6 to test, of three classes in turn."""
    for split, first, count in (("train", 0, 12), ("test", 100, 6)):
        images = [encoded(pixels(first + i)) for i in range(count)]
        write(here / "pets" / f"{split}-00000-of-00001.parquet", images, [i % 3 for i in range(count)])
    return "pets"


def images_of(split):
    return [image.permute(1, 2, 0).numpy() for image in split[0]]


@pytest.mark.parametrize("path", ["pets", "pets/*.parquet", "pets/t*-of-00001.parquet"])
def test_images_of_a_table_are_decoded_as_they_are(pets, path):
    data = huggingface(path)
    assert (data.name, data.outputs, data.input_shape) == ("pets", 3, (3, 8, 8))
    assert data.train[0].dtype == torch.uint8
    assert data.train[1].tolist() == [i % 3 for i in range(12)]
    assert all(np.array_equal(image, pixels(i)) for i, image in enumerate(images_of(data.train)))
    assert all(np.array_equal(image, pixels(100 + i)) for i, image in enumerate(images_of(data.test)))
    assert len(data.validation[0]) == 0


def test_the_network_takes_normalised_floats(pets):
    stored = huggingface("pets").train[0]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    torch.testing.assert_close(huggingface("pets").prepare(stored), (stored.float() / 255 - mean) / std)
    own = huggingface("pets", normalise="own")
    made = own.prepare(own.train[0]).double()
    torch.testing.assert_close(made.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(made.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-5, rtol=0)
    plain = huggingface("pets", normalise="none")
    torch.testing.assert_close(plain.prepare(stored), stored.float() / 255)
    given = huggingface("pets", normalise={"mean": [0.1, 0.2, 0.3], "std": [1, 2, 4]})
    expected = (stored.float() / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([1.0, 2, 4]).view(3, 1, 1)
    torch.testing.assert_close(given.prepare(stored), expected)
    prints = {d.fingerprint for d in (huggingface("pets"), own, plain, given)}
    assert len(prints) == 4  # normalisation is part of what a network saw


def test_a_second_load_maps_the_file_and_decodes_nothing(pets, monkeypatch):
    first = huggingface(pets)
    monkeypatch.setattr(Decoder, "__call__", lambda *_: pytest.fail("decoded again"))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("read again"))
    again = huggingface(pets)
    assert again.fingerprint == first.fingerprint
    assert torch.equal(again.train[0], first.train[0])


def test_the_fingerprint_is_of_the_numbers_wherever_they_are_kept(pets, monkeypatch):
    from dataclasses import replace

    stored = huggingface(pets)
    assert replace(stored, digest="").fingerprint == stored.fingerprint  # hashed anew, from the mapped file
    in_memory = replace(stored, train=(stored.train[0].clone(), stored.train[1]), digest="")
    assert in_memory.fingerprint == stored.fingerprint
    monkeypatch.setenv("TOMBOLA_CACHE", "elsewhere")
    os.utime("pets/train-00000-of-00001.parquet")
    assert huggingface(pets).fingerprint == stored.fingerprint
    assert list(Path("elsewhere").glob("*.safetensors"))


def test_a_changed_file_is_decoded_anew(pets):
    before = huggingface(pets).fingerprint
    changed = pixels(0)
    changed[0, 0, 0] ^= 1
    images = [encoded(changed), *(encoded(pixels(i)) for i in range(1, 12))]
    write("pets/train-00000-of-00001.parquet", images, [i % 3 for i in range(12)])
    assert huggingface(pets).fingerprint != before


def test_keys_change_with_the_data_and_not_with_where_it_lies(pets, plan_of):
    from tombola.engine.local import _dataset

    def keys(path, **args):
        _dataset.cache_clear()
        raw = {
            "name": "x",
            "data": {"name": "huggingface", "args": {"path": path, **args}},
            "model": {"args": {"hidden": [4]}},
        }
        return {stage.key for stage in plan_of(raw | {"prune": {"levels": 0}}).stages if stage.kind != "init"}

    before = keys("pets")
    Path("pets").rename("moved")
    assert keys("moved") == before
    assert not keys("moved", normalise="own") & before
    assert not keys("moved", subset=6) & before
    write("moved/test-00000-of-00001.parquet", [encoded(pixels(7))] * 3, [0, 1, 2])
    assert not keys("moved") & before
    _dataset.cache_clear()


def test_a_damaged_cache_is_made_anew(pets, here):
    before = huggingface(pets).fingerprint
    (file,) = (here / "cache").glob("*.safetensors")
    whole = file.read_bytes()
    for damaged in (whole[:100], whole[:-5], b"", b"\0" * 5000):
        file.unlink()
        file.write_bytes(damaged)
        assert huggingface(pets).fingerprint == before
    assert not list((here / "cache").glob("*.part"))


def test_what_a_killed_process_left_is_cleared_away(pets, here):
    (here / "cache").mkdir()
    huggingface(pets)
    (file,) = (here / "cache").glob("*.safetensors")
    file.with_suffix(".part").mkdir()
    (file.with_suffix(".part") / "data").write_bytes(b"half")
    file.unlink()
    assert len(huggingface(pets).train[0]) == 12
    assert {f.suffix for f in (here / "cache").iterdir()} == {".safetensors", ".lock"}


def test_a_cache_that_cannot_be_written_is_one_sentence(pets, monkeypatch):
    Path("file").touch()
    monkeypatch.setenv("TOMBOLA_CACHE", "file/below")
    with pytest.raises(TombolaError, match=r"cannot keep decoded data in file/below: .*; free space, or set TOMBOLA_CACHE"):
        huggingface(pets)


def test_subsets_and_held_out_parts_keep_every_class_and_do_not_overlap(pets):
    data = huggingface(pets, validation=3, subset=6, subset_test=3)
    assert [part[1].bincount().tolist() for part in (data.train, data.validation, data.test)] == [[2] * 3, [1] * 3, [1] * 3]
    rows = [{image.tobytes() for image in images_of(part)} for part in (data.train, data.validation, data.test)]
    assert len(rows[0] | rows[1] | rows[2]) == 12
    whole = huggingface(pets, validation=3)
    assert torch.equal(whole.validation[0], data.validation[0])  # whatever subset is trained on
    held = huggingface(pets, test=6)
    assert (len(held.train[0]), len(held.test[0])) == (6, 6)
    by_name = huggingface(pets, validation="test")
    assert torch.equal(by_name.validation[0], by_name.test[0])


def test_pooling_averages_and_resizing_keeps_the_middle(pets):
    pooled, image = huggingface(pets, pool=2).train[0][0], torch.from_numpy(pixels(0)).permute(2, 0, 1)
    mean = image.double().view(3, 4, 2, 4, 2).mean((2, 4))
    assert (pooled.double() - mean).abs().max() <= 0.5
    wide = np.zeros((8, 16, 3), dtype=np.uint8)
    wide[:, 4:12] = 200  # the middle square
    write("pets/train-00000-of-00001.parquet", [encoded(wide)] * 3, [0, 1, 2])
    assert bool((huggingface(pets, size=8).train[0] == 200).all())
    assert huggingface(pets, size=4).input_shape == (3, 4, 4)


def test_gray_images_have_one_channel_and_their_own_normalisation(here):
    for split in ("train", "test"):
        write(here / "pets" / f"{split}.parquet", [encoded(pixels(i, channels=1)) for i in range(3)], [0, 1, 2])
    data = huggingface("pets")
    assert data.input_shape == (1, 8, 8)
    assert data.prepare(data.train[0]).mean().item() == pytest.approx(0, abs=1e-5)
    assert huggingface("pets", mode="RGB").input_shape == (3, 8, 8)
    with pytest.raises(TombolaError, match=r"normalise is imagenet, which is of colour images"):
        huggingface("pets", normalise="imagenet")


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 76, 95, 100])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(quality):
    with Image.open(io.BytesIO(encoded(pixels(0), "JPEG", quality=quality))) as image:
        assert jpeg_quality(tuple(image.quantization[0])) == quality
    assert jpeg_quality((1,) * 63 + (2,)) is None


def test_jpegs_of_one_quality_are_told_apart_by_name(here):
    def called(*qualities):
        images = [encoded(pixels(i), "JPEG", quality=q) if q else encoded(pixels(i)) for i, q in enumerate(qualities)]
        for split in ("train", "test"):
            write(here / "pets" / f"{split}.parquet", images, [0, 1, 2])
        return huggingface("pets").name

    assert called(75, 75, 75) == "pets-jpeg75"
    assert called(90, 90, 90) == "pets-jpeg90"
    assert called(75, 90, 75) == "pets"
    assert called(75, 0, 75) == "pets"


def refused(said, *args, **kwargs):
    with pytest.raises(TombolaError) as caught:
        huggingface(*args, **kwargs)
    assert said in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_that_are_missing_or_unclear_are_listed(pets):
    listed = "picture (image), kind (class)"
    refused(f"inputs is 'pictur': did you mean 'picture'? the columns are {listed}", pets, inputs="pictur")
    refused(f"target is 'label': the columns are {listed}", pets, target="label")
    refused("target column 'picture' is an input, too", pets, target="picture")
    refused("input column 'kind' holds class", pets, inputs="kind", target="kind")


def test_splits_that_are_missing_are_listed(pets):
    refused("there is no split 'tset'; set args.test to one of test, train or to the number", pets, test="tset")
    refused("there is no split 'dev'; set args.train to one of test, train", pets, train="dev")
    refused("validation is 12, of 12 training examples", pets, validation=12)
    refused("test is 0; give the name of a split", pets, test=0)
    refused("validation is 0.1; give the name of a split or a whole number of examples to hold out", pets, validation=0.1)
    refused("test is -1; give the name", pets, test=-1)
    refused("train is 5; give the name of a split", pets, train=5)
    refused("subset is 13; there are 12 examples in 3 classes", pets, subset=13)
    refused("subset is 2; there are 12 examples in 3 classes", pets, subset=2)
    refused("pool is 0; it must be a whole number", pets, pool=0)
    refused("size is '8'; it must be a whole number", pets, size="8")
    refused("pool is 3, which does not divide the size [8, 8] of image 0 of train", pets, pool=3)
    refused("mode is 'gray'; it must be RGB or L", pets, mode="gray")
    refused("normalise is 'mine'; it must be auto, imagenet, own, none, or", pets, normalise="mine")
    for mean, std in (([0.5], [1.0]), (0.5, 0.2), (["a"] * 3, [1] * 3), ([float("inf"), 0, 0], [1] * 3)):
        refused("with 3 numbers each", pets, normalise={"mean": mean, "std": std})


@pytest.mark.parametrize(
    ("third", "said"),
    [
        (b"no image", "image 2 of train can't be decoded"),
        (encoded(pixels(0), "JPEG")[:-150], "image 2 of train can't be decoded"),
        (encoded(pixels(0))[:60], "image 2 of train can't be decoded"),
        (None, "image 2 of train is missing"),
        (encoded(pixels(0, (8, 9))), "image 2 of train has shape [3, 8, 9], image 0 of train [3, 8, 8]"),
        (encoded(pixels(0, channels=1)), "image 2 of train is grayscale, those before it are colour; set args.mode"),
        (encoded(np.zeros((8, 8), dtype=np.uint16)), "image 2 of train has mode I;16"),
        ({"bytes": b"x", "path": "bad/7.png"}, "image 2 of train (bad/7.png) can't be decoded"),
    ],
    ids=["no image", "cut JPEG", "cut PNG", "missing", "shape", "gray", "16 bits", "named"],
)
def test_an_image_that_cannot_be_used_is_named(third, said, pets):
    write("pets/train-00000-of-00001.parquet", [encoded(pixels(0)), encoded(pixels(1)), third], [0, 1, 2])
    refused(f"data 'pets': {said}", pets)
    assert not list(Path("cache").glob("*.safetensors"))


def test_images_may_lie_beside_the_table(pets):
    """A table without the library's own description: a struct of bytes and path."""
    cell = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({"picture": cell, "kind": datasets.ClassLabel(names=["ape", "bee"])})
    picture("files/0.png", 5)
    cells = [{"bytes": None, "path": "files/0.png"}, {"bytes": encoded(pixels(6)), "path": None}]
    write("pets/train-00000-of-00001.parquet", cells, [0, 1], features)
    write("pets/test-00000-of-00001.parquet", cells, [0, 1], features)
    made = images_of(huggingface(pets).train)
    assert [np.array_equal(image, pixels(seed)) for image, seed in zip(made, (5, 6), strict=True)] == [True, True]
    write("pets/train-00000-of-00001.parquet", [*cells, {"bytes": None, "path": "gone/7.png"}], [0, 1, 1], features)
    refused("image 2 of train (gone/7.png) is missing", pets)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1, 1], "class 'cat' has no training examples"),
        ([0, 1, None], "row 2 of train has no 'kind'"),
        ([0, 1, -1], "train has the label -1 (hidden labels?), which is none of the 3 classes"),
    ],
)
def test_labels_that_cannot_be_used_are_named(labels, said, pets):
    write("pets/train-00000-of-00001.parquet", [encoded(pixels(i)) for i in range(3)], labels)
    refused(f"data 'pets': {said}", pets)


def test_labels_that_are_numbers_or_words_become_classes(here):
    for kind, labels in (("int64", [7, 3, 7]), ("string", ["x", "a", "x"]), ("bool", [True, False, True])):
        features = datasets.Features({"picture": datasets.Image(), "kind": datasets.Value(kind)})
        for split in ("train", "test"):
            write(here / "pets" / f"{split}.parquet", [encoded(pixels(i)) for i in range(3)], labels, features)
        data = huggingface("pets", target="kind")
        assert (data.train[1].tolist(), data.outputs) == ([1, 0, 1], 2)
    write(here / "pets" / "test.parquet", [encoded(pixels(0))], [True], features)
    refused("which column is the target? Set args.target; there are picture (image), kind (whole numbers)", "pets")
    features["kind"] = datasets.Value("int64")
    write(here / "pets" / "train.parquet", [encoded(pixels(i)) for i in range(2)], [3, 5], features)
    write(here / "pets" / "test.parquet", [encoded(pixels(0))], [4], features)
    refused("test has the label 4, which is none of the 2 classes of train", "pets", target="kind")


def table(path, text):
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(text)


def test_columns_of_numbers_are_inputs(here):
    table("irises/train.csv", "w,h,kind,price,word\n1,2,a,0.5,x\n3,4,b,1.5,y\n5,9,b,2.5,z\n")
    table("irises/test.csv", "w,h,kind,price,word\n1,1,b,9,x\n")
    data = huggingface("irises", inputs=["w", "h"], target="kind")
    assert data.train[0].tolist() == [[1, 2], [3, 4], [5, 9]]
    assert data.train[1].tolist() == [0, 1, 1]
    made = data.prepare(data.train[0])
    torch.testing.assert_close(made.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    price = huggingface("irises", inputs=["w", "h"], target="price", normalise="none")
    assert (price.train[1].tolist(), price.is_classification, price.outputs) == ([[0.5], [1.5], [2.5]], False, 1)
    assert torch.equal(price.prepare(price.train[0]), price.train[0])
    refused("which column is the input? Set args.inputs to it, or to a list of columns of numbers", "irises", target="kind")
    refused("input column 'word' holds text; turn text into numbers in a function of your own", "irises", inputs="word")
    refused("input column 'word' holds text", "irises", inputs=["w", "word"], target="kind")
    table("irises/test.csv", "w,h,kind,price,word\n1,,b,9,x\n")
    refused("'h' in row 0 of test is missing or not finite", "irises", inputs=["w", "h"], target="kind")
    table("irises/test.csv", "w,h,kind\n1,1,b\n")
    refused("test has columns w, h, kind, train w, h, kind, price, word", "irises", inputs=["w", "h"], target="kind")
    table("irises/test.csv", "w,h,kind,price,word\n1,big,b,9,x\n")
    refused("'w' in row 0 of test is no array of numbers", "irises", inputs=["w", "h"], target="kind")


def test_lists_of_numbers_are_inputs_if_all_have_one_shape(here):
    def lines(*rows):
        return "".join(json.dumps({"x": x, "y": y}) + "\n" for x, y in rows)

    table("lists/train.jsonl", lines(([[1, 2], [3, 4]], 0), ([[5, 6], [7, 8]], 1)))
    table("lists/test.jsonl", lines(([[0, 0], [0, 1]], 1)))
    data = huggingface("lists", inputs="x", target="y")
    assert data.train[0].tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    table("lists/test.jsonl", lines(([[0, 0]], 1)))
    refused("'x' in row 0 of test has shape [1, 2], 'x' in row 0 of train [2, 2]", "lists", inputs="x", target="y")
    table("lists/test.jsonl", lines(([[0, 0], [1]], 1)))
    refused("'x' in row 0 of test is no array of numbers", "lists", inputs="x", target="y")


def test_a_folder_saved_by_the_library_is_read(pets):
    loaded = {
        s: datasets.Dataset.from_parquet(f"pets/{s}-00000-of-00001.parquet", cache_dir="hf") for s in ("train", "test")
    }
    datasets.DatasetDict(loaded).save_to_disk("saved")
    assert torch.equal(huggingface("saved").train[0], huggingface("pets").train[0])


def test_paths_that_lead_nowhere_are_one_sentence(pets, monkeypatch):
    refused("there is no ./nowhere (seen from", "./nowhere")
    refused("there is no file pets.parquet", "pets.parquet")
    refused("there is no pets/*.csv", "pets/*.csv")
    Path("empty").mkdir()
    refused("folder empty has no data files", "empty")
    Path("pets/more.csv").touch()
    refused("give files of one kind", "pets")
    Path("pets/more.csv").unlink()
    Path("pets/test-00000-of-00001.parquet").write_bytes(b"PAR1 nonsense")
    refused("pets can't be read: ", "pets")

    def unreachable(*_, **__):
        raise ConnectionError("no route to host\nat all")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    refused("can't be had from the Hugging Face hub: ConnectionError: no route to host at all", "someone/something")


def test_a_name_on_the_hub_is_loaded_with_its_configuration_and_revision(pets, monkeypatch):
    asked, load = [], datasets.load_dataset

    def hub(path, name=None, **kwargs):
        asked.append((path, name, kwargs))
        files = {s: f"pets/{s}-00000-of-00001.parquet" for s in ("train", "test")}
        return load("parquet", data_files=files, cache_dir="hf")

    monkeypatch.setattr(datasets, "load_dataset", hub)
    data = huggingface("someone/animals", name="small", revision="v1")
    assert (data.name, len(data.train[0])) == ("animals-small", 12)
    assert huggingface("someone/animals", name="small", revision="v1").fingerprint == data.fingerprint
    assert asked == [("someone/animals", "small", {"revision": "v1"})]


def picture(path, seed=0, **kwargs):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(encoded(pixels(seed, **kwargs)))


def no_folder(said, *args, **kwargs):
    with pytest.raises(TombolaError) as caught:
        folder(*args, **kwargs)
    assert said in str(caught.value), str(caught.value)


def test_a_folder_of_images_has_a_class_for_each_subfolder(here):
    for i, name in enumerate(["bee", "ape"]):
        for j in range(3):
            picture(f"zoo/train/{name}/{j}.png", 10 * i + j)
        picture(f"zoo/test/{name}/deep/er.png", 90 + i)
    picture("zoo/val/ape/x.png", 50)
    Path("zoo/train/ape/notes.txt").touch()
    Path("zoo/train/.hidden").mkdir()
    data = folder("zoo", validation="val")
    assert (data.name, data.outputs) == ("zoo", 2)
    assert data.train[1].tolist() == [0, 0, 0, 1, 1, 1]  # sorted by name: ape, bee
    assert all(np.array_equal(a, pixels(b)) for a, b in zip(images_of(data.train), [10, 11, 12, 0, 1, 2], strict=True))
    assert [np.array_equal(a, pixels(b)) for a, b in zip(images_of(data.test), [91, 90], strict=True)] == [True, True]
    assert data.validation[1].tolist() == [0]
    assert load_data("folder", {"path": "zoo", "validation": "val"}).fingerprint == data.fingerprint
    Path("zoo/train/ape/0.png").write_bytes(b"broken")
    no_folder("zoo/train/ape/0.png can't be decoded", "zoo")


def test_a_folder_without_splits_holds_some_images_out(here):
    for name in ("ape", "bee"):
        for j in range(5):
            picture(f"zoo/{name}/{j}.png", j)
    data = folder("zoo", test=4, validation=2)
    assert [part[1].bincount().tolist() for part in (data.train, data.validation, data.test)] == [[2, 2], [1, 1], [2, 2]]
    no_folder("zoo has no folder 'train'; set args.test to the number of images to hold out", "zoo")


def test_a_folder_that_cannot_be_used_is_one_sentence(here):
    no_folder("there is no folder nowhere (seen from", "nowhere")
    Path("zoo/train").mkdir(parents=True)
    no_folder("zoo/train has no subfolders", "zoo")
    Path("zoo/train/ape").mkdir()
    no_folder("class 'ape' has no images in zoo/train/ape", "zoo")
    picture("zoo/train/ape/0.png")
    no_folder("zoo has no folder 'test'", "zoo")
    picture("zoo/test/bee/0.png")
    no_folder("class 'bee' is in test but not in train", "zoo")
    Path("zoo/train/ape/1.png").symlink_to("gone.png")
    no_folder("zoo/train/ape/1.png can't be read (No such file or directory); repair it or take it out", "zoo")


def test_bad_data_in_a_study_is_exit_code_two(pets, refused, study_file):
    said = __import__("yaml").safe_dump(
        {"name": "x", "data": {"name": "huggingface", "args": {"path": "pets", "test": "tset"}}}
    )
    assert "there is no split 'tset'" in refused("run", study_file(said), "--out", "out")
    assert "data.crop is of images [C, H, W] larger than the padding of 8" in refused(
        "run",
        study_file({"name": "x", "data": {"name": "huggingface", "args": {"path": "pets"}, "crop": 8}}),
        "--out",
        "out",
    )
