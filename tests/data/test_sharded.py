"""Studies on data in shards: tar files and Hugging Face streams, resumed in the middle of an epoch."""

import numpy as np
import pandas as pd
import pytest
import torch

from support.tars import png, write_tars
from tombola.data import load_data
from tombola.data.shards import ShardBatches
from tombola.engine.progress import Watcher
from tombola.engine.records import collect
from tombola.engine.store import Store
from tombola.errors import TombolaError
from tombola.metrics.columns import names
from tombola.study.stages import Train

pytest.importorskip("webdataset")
SIDE, CLASSES = 4, 3


def picture(i):
    """A picture whose brightness says its class."""
    return np.random.default_rng(i).integers(30, size=(SIDE, SIDE, 3), dtype=np.uint8) + np.uint8(80 * (i % CLASSES))


@pytest.fixture
def args(tmp_path):
    """Arguments of 60 training images in three tar files and 21 test images in one."""
    how = {"side": SIDE, "pixels": picture, "label": lambda i: i % CLASSES}
    return {
        "path": write_tars(tmp_path, 60, 20, **how),
        "test": write_tars(tmp_path, 21, 21, name="test", **how),
        "buffer": 16,
    }


class Stops(Watcher):
    """A watcher that stops the run at a step of its first training."""

    def __init__(self, at):
        self.at = at

    def stepped(self, stage, done, total):
        if done == self.at:
            raise KeyboardInterrupt


def test_a_study_goes_on_in_the_middle_of_an_epoch_with_the_same_bits(tiny, plan_of, run_plan, args, tmp_path):
    """Eight steps an epoch, stopped after the thirteenth."""
    train = tiny["train"] | {"epochs": 15, "batch_size": 8, "lr": 0.03}
    plan = plan_of(tiny | {"data": {"name": "shards", "args": args, "flip": True}, "train": train})
    whole, _, _ = run_plan(plan, "whole")
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, watcher=Stops(13), checkpoint_seconds=0.0)
    training = next(stage for stage in plan.stages if isinstance(stage, Train))
    assert Store(tmp_path / "stages").checkpoint_path(training.key).is_file()
    resumed, _, engine = run_plan(plan)
    assert not engine.failures
    one, other = (collect(plan, store).drop(columns=names("timing")) for store in (whole, resumed))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert list(one["examples"]) == [21, 21]
    assert one["accuracy"].min() > 0.9
    assert whole.record(training.key)["record"]["steps"] == 15 * 8


def test_training_examples_stay_in_their_shards(args):
    data = load_data("shards", args)
    assert data.examples == 60
    assert data.outputs == CLASSES
    assert torch.equal(data.test[1], torch.arange(21) % CLASSES)
    assert torch.equal(data.test[0][5], torch.from_numpy(picture(5)).permute(2, 0, 1))
    batches = data.streamed.batches(8, 0, None, data.prepare, torch.device("cpu"))
    assert isinstance(batches, ShardBatches)
    inputs, targets = (torch.cat(part) for part in zip(*batches.epoch(0), strict=True))
    assert targets.bincount().tolist() == [20, 20, 20]
    known = torch.stack([torch.from_numpy(picture(i)).permute(2, 0, 1) for i in range(60)])
    assert torch.equal(inputs.sum((1, 2, 3)).sort().values, data.prepare(known).sum((1, 2, 3)).sort().values)


def test_its_key_is_of_what_is_in_the_shards_and_not_of_where_they_lie(args, tmp_path):
    first = load_data("shards", args).fingerprint
    there = tmp_path / "there" / tmp_path.name
    there.mkdir(parents=True)
    for name in ("train-00000.tar", "train-00001.tar", "train-00002.tar", "test-00000.tar"):
        (there / name).write_bytes((tmp_path / name).read_bytes())
    moved = {"path": str(there / "train-*.tar"), "test": str(there / "test-*.tar"), "buffer": 16}
    assert load_data("shards", moved).fingerprint == first
    (there / "train-00002.tar").unlink()
    assert load_data("shards", moved).fingerprint != first


def test_a_hugging_face_folder_is_streamed(tmp_path, args):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "gray", "light"])})
    folder = tmp_path / "there" / "data"
    folder.mkdir(parents=True)
    for split, count, parts in (("train", 60, 3), ("test", 21, 1)):
        for part in range(parts):
            rows = range(part * count // parts, (part + 1) * count // parts)
            cells = {"image": [{"bytes": png(picture(i)), "path": None} for i in rows], "label": [i % CLASSES for i in rows]}
            table = datasets.Dataset.from_dict(cells, features=features)
            table.to_parquet(str(folder / f"{split}-{part:05d}-of-{parts:05d}.parquet"))
    data, tars = load_data("shards", {"path": str(tmp_path / "there"), "test": "test"}), load_data("shards", args)
    assert data.classes == ("dark", "gray", "light")
    assert data.examples == 60
    assert data.streamed.shards.count == 3
    for part in range(2):
        assert torch.equal(data.test[part], tars.test[part])
        assert torch.equal(data.train[part], tars.train[part])
    batches = data.streamed.batches(8, 0, None, None, torch.device("cpu"))
    assert torch.cat([targets for _, targets in batches.epoch(0)]).bincount().tolist() == [20, 20, 20]


def test_bad_input_is_refused_in_a_sentence(args, tmp_path):
    with pytest.raises(TombolaError, match="but it is read in parts"):
        load_data("shards", args | {"leave_out": [0]})
    with pytest.raises(TombolaError, match="there are no shards"):
        load_data("shards", args | {"test": str(tmp_path / "none-*.tar")})
    with pytest.raises(TombolaError, match="the label 2 is not among 2 classes"):
        load_data("shards", args | {"classes": 2})
    with pytest.raises(TombolaError, match="no folder, and can't be had"):
        load_data("shards", {"path": str(tmp_path / "nowhere"), "test": "test"})
    one_class = {"side": SIDE, "pixels": picture, "label": lambda i: 0}
    few = {name: write_tars(tmp_path, 4, 4, name=f"few-{name}", **one_class) for name in ("path", "test")}
    data = load_data("shards", few)
    batches = data.streamed.batches(8, 0, None, None, torch.device("cpu"))
    data.streamed.shards.paths[:] = [str(tmp_path / "train-00000.tar")]
    with pytest.raises(TombolaError, match=r"has the label \d, but there are 1 classes"):
        list(batches.epoch(0))


@pytest.mark.parametrize("path", [[], "", [""], [3]])
def test_a_path_that_names_nothing_is_refused(args, path):
    with pytest.raises(TombolaError, match="give tar files"):
        load_data("shards", args | {"path": path})


def test_a_shard_that_is_missing_among_others_is_said(args, tmp_path):
    with pytest.raises(TombolaError, match=r"there are no shards .*absent"):
        load_data("shards", args | {"path": [args["path"], str(tmp_path / "absent-*.tar")]})


@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize("label", [-1, "cat", 0.5])
def test_a_class_that_is_no_number_is_said(args, tmp_path, held_out, label):
    wrong = write_tars(tmp_path, 5, 5, SIDE, label=lambda i: label if i == 3 else i % CLASSES, name="wrong")
    with pytest.raises(TombolaError, match=f"0000003 has the class b'{label}'; classes are numbers from 0"):
        load_data("shards", args | {"test" if held_out else "path": wrong})


def test_a_tar_file_of_nonsense_is_said(args, tmp_path):
    (tmp_path / "bad.tar").write_bytes(b"nonsense" * 400)
    for part in ("path", "test"):
        with pytest.raises(TombolaError, match=r"bad\.tar can't be read as a tar file"):
            load_data("shards", args | {part: str(tmp_path / "bad.tar")})
