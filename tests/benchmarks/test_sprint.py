"""A sprint on a GPU, seen at toy size: it goes on from earlier ones, and several are put together."""

import json
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from benchmarks.gpu.sprint import archive
from benchmarks.gpu.sprint.agenda import Agenda
from benchmarks.gpu.sprint.command import Sprint, collect, main
from hypothesis import given
from hypothesis import strategies as st

from tombola.training.checkpoint import TimeUp

TOY = ["--size", "toy", "--device", "cpu", "--nets", "vgg11", "--seeds", "1"]


def sprint(out: Path, *more: object) -> pd.DataFrame:
    assert main([*TOY, "--out", str(out), *map(str, more)]) == 0
    return pd.read_parquet(out / "records.parquet")


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    table = table[table["study"] != "recipes"]  # they are searched for once
    return table.set_index(["study", "curve", "key"])[["accuracy", "nll", "density"]].sort_index()


@pytest.mark.usefixtures("brief_toys")
def test_sprints_that_are_cut_off_add_up_to_a_whole_one(tmp_path, monkeypatch):
    whole = sprint(tmp_path / "whole")
    stages = iter(range(40))  # time is up after as many

    def count(sprint: Sprint) -> None:
        if next(stages, None) is None:
            raise TimeUp

    with monkeypatch.context() as patch:
        patch.setattr(Sprint, "_save_if_due", count)
        first = sprint(tmp_path / "first")
    assert 0 < len(first) < len(whole)
    rest = sprint(tmp_path / "rest", "--earlier", tmp_path / "first")
    pd.testing.assert_frame_equal(numbers(rest), numbers(whole), check_exact=True)
    assert set(rest["sprint"]) == {
        json.loads((tmp_path / d / "sprint.json").read_text())["sprint"] for d in ("first", "rest")
    }
    assert collect([str(tmp_path / "first"), str(tmp_path / "rest"), "--out", str(tmp_path / "all")]) == 0
    pd.testing.assert_frame_equal(
        numbers(pd.read_parquet(tmp_path / "all" / "records.parquet")), numbers(whole), check_exact=True
    )
    assert len(list((tmp_path / "rest").iterdir())) <= 8


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 3))
def test_a_chain_of_masks_is_a_byte_a_weight(survived: list[int], levels: int):
    class Stage:
        def __init__(self, key):
            self.key = key

    deaths = torch.tensor(survived)
    masks = {str(level): (deaths > level, {"level": level}) for level in range(levels)}
    archive._PACKED.clear()
    chain = archive.packed([Stage(key) for key in masks], masks)
    assert len(zlib.decompress(chain[1].tobytes())) == len(survived)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "masks-0.npz")
        (part,) = archive._parts([chain])
        np.savez(file, **part)
        found = dict(archive.unpacked(file))
    assert found.keys() == masks.keys()
    for key, (mask, info) in masks.items():
        assert torch.equal(found[key][0], mask)
        assert found[key][1] == info


def test_an_earlier_sprint_that_is_none_is_refused(tmp_path, capsys):
    assert main([*TOY, "--out", str(tmp_path / "out"), "--earlier", str(tmp_path)]) == 2
    assert "has no stages.json.gz; give the folder of an earlier sprint" in capsys.readouterr().err
    assert collect([str(tmp_path), "--out", str(tmp_path / "all")]) == 2
    assert "no sprint.json" in capsys.readouterr().err


def test_the_field_has_its_arms_at_any_size_and_longer_trainings_keep_their_factor():
    plan = Agenda("toy", "", {}, "cpu").plan("vgg11", 0, ["field"])
    rows = {row.labels["curve"]: row for row in plan.rows}
    usual, longer = (row.trained.settings.epochs for curve, row in rows.items() if curve.startswith("ssvi"))
    assert longer == 6 * usual
    assert {row.labels["method"] for row in plan.rows} >= {"vi", "map", "sghmc", "swag", "mc_dropout", "ensemble"}
