"""benchmarks/recipes.py: which values it tries, and which it keeps."""

import json

import pandas as pd
import pytest

from benchmarks import recipes, record
from tombola.study.recipes import cifar10, expand, merged
from tombola.study.spec import unfold

EVERY = [(size, net) for size, there in cifar10()["sizes"].items() for net in there["nets"]]


def records_of(study, store):
    """Best at lr 0.02 and batch 64, whichever other settings."""
    (one,) = expand(study)
    assert one["evaluate"]["split"] == "validation"
    assert one["data"]["args"]["validation"] > 0
    train = one["train"]
    accuracy = 0.9 - abs(train["lr"] - 0.02) - abs(train["batch_size"] - 64) / 1e4 - (train["heat"] != 0.1) * -0.5
    rows = [{"method": m, "level": level, "accuracy": accuracy} for m in ("vi", "map") for level in (0, 1)]
    return pd.DataFrame(rows).assign(drift_mean=0.0, drift_spread=0.0, drift_rank=0.0, train_seconds=1.0)


def tuned(monkeypatch, tmp_path, *words):
    out = tmp_path / "record.json"
    argv = ["recipes", "--path", "/some/place", "--nets", "resnet20", "--out", str(out), *words]
    monkeypatch.setattr("sys.argv", argv)
    monkeypatch.setattr(recipes, "records_of", records_of)
    assert recipes.main() == 0
    return json.loads(out.read_text())


@pytest.mark.thinned(4)
@pytest.mark.parametrize(("size", "net"), EVERY)
def test_the_first_value_of_every_setting_is_the_recipes_own(size, net):
    study = {"name": "it", "size": size, "nets": [net]}
    for setting, patches in recipes._candidates(study).items():
        assert unfold(merged(study, patches[0]))[0].study == unfold(study)[0].study, setting
        assert all(unfold(merged(study, patch))[0].study != unfold(study)[0].study for patch in patches[1:]), setting


def test_the_best_value_of_each_setting_is_kept_and_heat_is_not_chosen(monkeypatch, tmp_path):
    found = tuned(monkeypatch, tmp_path)
    assert found["chosen"]["resnet20"]["train"]["lr"] == 2 * cifar10()["sizes"]["cpu"]["nets"]["resnet20"]["train"]["lr"]
    assert found["chosen"]["resnet20"]["train"]["batch_size"] == 64
    assert "heat" not in found["chosen"]["resnet20"]["train"]
    heats = [row for row in found["rows"] if row["setting"].startswith("heat")]
    assert heats[1]["accuracy"] > heats[0]["accuracy"]
    assert not any(row["chosen"] for row in heats)


def test_a_record_does_not_tell_the_places_of_a_machine(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["x", "--path", "/a/b", "--seeds", "2", "--store", "/c", "--settings", "learning rate"])
    record.write(tmp_path / "record.json", "x", [])
    command = json.loads((tmp_path / "record.json").read_text())["command"]
    assert command == "python -m benchmarks.x --path FILES --seeds 2 --settings 'learning rate'"
