"""benchmarks.gpu at toy size on a CPU: every piece runs on torch and safetensors alone, and goes on where it was."""

import json
from pathlib import Path

import pytest
import torch
from benchmarks.gpu.__main__ import PIECES, main
from benchmarks.gpu.nets import NETS, TOY_RECIPES, noise, recipe_of, stored, stored_recipes
from benchmarks.gpu.prepare import recipes, write
from benchmarks.gpu.sitting import Sitting
from benchmarks.gpu.steps import ARMS, fastest_of, summary

from support.bare import WHOLE, run_without
from tombola.errors import TombolaError
from tombola.training.checkpoint import TimeUp

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
TOY = ["--device", "cpu", "--toy", "--seeds", "1", "--nets", "resnet20"]


def rows(folder, piece):
    return json.loads((folder / f"{piece}.json").read_text())["rows"]


def accuracies(folder, piece):
    """What of the rows does not depend on the time."""
    return {
        name: (row["accuracy"], row["nll"], row["density"], row["final"]["loss"])
        for name, row in rows(folder, piece).items()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The study in one sitting."""
    out = tmp_path_factory.mktemp("whole")
    assert main(["study", *TOY, "--out", str(out)]) == 0
    return out


def test_every_piece_runs_on_torch_and_safetensors_alone(tmp_path):
    run_without(
        (*WHOLE, "filelock", "plotly", "PIL"),
        f"""
from benchmarks.gpu.__main__ import main
for piece in {[p for p in PIECES if p not in ("study", "paper")]!r}:
    assert main([piece, *{TOY!r}, '--out', {str(tmp_path)!r}]) == 0, piece
assert main(['levels', *{TOY!r}, '--whole', '--out', {str(tmp_path)!r}]) == 0
assert main(['data', *{TOY[:-1]!r}, 'vgg11', 'vit_tiny', '--out', {str(tmp_path)!r}]) == 0
""",
    )
    assert rows(tmp_path, "profile")["resnet20"]["flop"] > 1e6
    arms = summary(rows(tmp_path, "steps"), "resnet20")["arms"]
    assert arms.keys() == ARMS.keys()
    assert arms["vi, 10 samples"]["ratio"] > 2 * arms["vi"]["ratio"]
    assert rows(tmp_path, "data")["resnet20"]["share"] > 0
    assert {row["extrapolated"] for row in rows(tmp_path, "levels").values()} == {True, False}
    assert "resnet20, 160 epochs, level 5, seed 0" in rows(tmp_path, "recipe")


def test_steps_go_on_at_the_next_configuration_where_the_time_was_up(tmp_path, monkeypatch):
    timed = []

    def interleaved(kinds, rounds, say):
        timed.append([*kinds][1])
        return {label: {"seconds": 1.0, "times": [1.0]} for label in kinds}

    monkeypatch.setattr("benchmarks.gpu.timing.interleaved", interleaved)
    with monkeypatch.context() as patch:
        patch.setattr(Sitting, "over", property(lambda self: len(timed) == 4))
        assert main(["steps", *TOY, "--out", str(tmp_path)]) == 3
    first = rows(tmp_path, "steps")
    assert [*first] == ["resnet20", *timed]
    assert main(["steps", *TOY, "--out", str(tmp_path)]) == 0
    assert len(set(timed)) == len(timed) > 4 + len(ARMS)
    assert [*rows(tmp_path, "steps")] == ["resnet20", *timed]
    assert {name: rows(tmp_path, "steps")[name] for name in first} == first


def test_steps_of_several_sittings_are_compared_by_the_reference_beside_them():
    """The second sitting's machine is half as fast: a Bayesian step of 2.2 s is then 1.1 times one of 1 s."""
    found = {
        "net": {"batch": 1},
        "net | plain fp32": {"seconds": 1.0, "relative": 0.5},
        "net | map | bf16": {"seconds": 1.5, "relative": 0.75},
        "net | vi | fp32": {"seconds": 2.2, "relative": 0.55},
        "net | vi | bf16": {"seconds": 2.1, "relative": 1.05},
        "net | vi, 10 samples | bf16": {"failed": "out of memory"},
        "network | vi | fp32": {"seconds": 0.1, "relative": 0.1},
    }
    made = summary(found, "net")
    assert made["deterministic"]["label"] == "plain fp32"
    assert {arm: (one["label"], round(one["ratio"], 9)) for arm, one in made["arms"].items()} == {
        "map": ("bf16", 1.5),
        "vi": ("fp32", 1.1),
    }
    assert fastest_of(found, "net", "vi") == {}
    assert fastest_of(found, "net", "ivon") == {"precision": "bf16", "channels_last": True}
    assert summary({}, "net") == {"deterministic": None, "arms": {}}


def test_a_chain_prunes_a_fifth_a_level(whole):
    found = rows(whole, "study")
    assert [round(row["density"], 2) for row in found.values()] == [1.0, 0.8, 0.64]
    assert all(0 <= row["accuracy"] <= 1 for row in found.values())


def test_a_piece_that_is_killed_goes_on_and_gives_the_same_numbers(whole, tmp_path, monkeypatch):
    class KilledError(BaseException):
        pass

    written, write_record = [], Sitting.write

    def write_once(self):
        if written:
            raise KilledError
        written.append(1)
        write_record(self)

    with monkeypatch.context() as patch:
        patch.setattr(Sitting, "write", write_once)
        with pytest.raises(KilledError):
            main(["study", *TOY, "--out", str(tmp_path)])
    assert len(rows(tmp_path, "study")) == 1
    assert main(["study", *TOY, "--out", str(tmp_path)]) == 0
    assert accuracies(tmp_path, "study") == accuracies(whole, "study")


def test_a_training_stops_when_the_time_is_up_and_goes_on_in_its_middle(whole, tmp_path, monkeypatch, capsys):
    looks = []

    def over(self):
        looks.append(1)
        return len(looks) >= 4  # one at the row, then one a step

    with monkeypatch.context() as patch:
        patch.setattr(Sitting, "over", property(over))
        assert main(["study", *TOY, "--out", str(tmp_path)]) == 3
    assert "run the same command again" in capsys.readouterr().out
    assert list((tmp_path / "study").glob("*.checkpoint.safetensors"))
    assert main(["study", *TOY, "--out", str(tmp_path)]) == 0
    assert accuracies(tmp_path, "study") == accuracies(whole, "study")
    assert not list((tmp_path / "study").glob("*.checkpoint.safetensors"))


def test_what_is_done_is_not_done_again(whole, tmp_path, monkeypatch):
    before = (whole / "study.json").read_text()
    monkeypatch.setattr("benchmarks.gpu.tickets.train", None)  # would fail if it were called
    assert main(["study", *TOY, "--out", str(whole)]) == 0
    assert json.loads(before)["rows"] == rows(whole, "study")


def test_without_time_nothing_is_begun(tmp_path):
    assert main(["study", *TOY, "--out", str(tmp_path), "--minutes", "0"]) == 3
    assert not (tmp_path / "study.json").exists()


def test_a_long_row_is_not_begun_at_the_end_of_a_sitting_but_at_its_start(tmp_path):
    now = [0.0]
    sitting = Sitting("x", tmp_path, {}, 10, CPU, clock=lambda: now[0])
    assert sitting.row("first", lambda: {"a": 1}, needs=20) == {"a": 1}
    now[0] = 60 * 6.0
    with pytest.raises(TimeUp):
        sitting.row("second", lambda: {"a": 2}, needs=5)
    assert sitting.row("third", lambda: {"a": 3}, needs=3) == {"a": 3}
    assert list(rows(tmp_path, "x")) == ["first", "third"]


def test_a_record_of_another_set_up_is_refused(tmp_path):
    Sitting("x", tmp_path, {"data": "noise"}, 1, CPU).write()
    with pytest.raises(TombolaError, match="give another --out"):
        Sitting("x", tmp_path, {"data": "cifar10-jpeg75"}, 1, CPU)


def test_accuracy_is_not_measured_of_noise_and_a_gpu_is_not_imagined(tmp_path, capsys):
    assert main(["recipe", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "--data" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(["steps", "--out", str(tmp_path)]) == 2
        assert "sees no GPU" in capsys.readouterr().err


def test_stored_data_are_the_same_bits_under_the_same_name(tmp_path):
    data = noise(toy=True)
    write(data, tmp_path / "data.safetensors")
    back = stored(tmp_path / "data.safetensors")
    assert (back.name, back.normalise, back.fingerprint) == (data.name, data.normalise, data.fingerprint)
    assert torch.equal(back.train[0], data.train[0])
    assert torch.equal(back.test[1], data.test[1])
    assert stored_recipes(tmp_path / "data.json") == {}


def test_settings_come_back_from_json_and_an_unknown_one_is_named(tmp_path):
    (tmp_path / "data.json").write_text(
        json.dumps({"gpu": {"resnet20": {"train": {"epochs": 7}, "evaluate": {"samples": 3}}}})
    )
    found = stored_recipes(tmp_path / "data.json")["gpu"]["resnet20"]
    assert (found.train.epochs, found.evaluate.samples, found.prune.levels) == (7, 3, 20)
    with pytest.raises(TombolaError, match=r"train\.epoch is no setting"):
        recipe_of({"train": {"epoch": 7}})
    assert TOY_RECIPES["gpu"]["vgg11"].data.flip


def test_the_recipes_are_written_resolved_and_read_back():
    written = json.loads(json.dumps(recipes()))
    found = {(size, net): recipe_of(raw) for size, nets in written.items() for net, raw in nets.items()}
    assert set(found) == {(size, net) for size in ("full", "gpu") for net in NETS}
    full = found["full", "vit_tiny"]
    assert (full.train.epochs, full.train.batch_size, full.train.samples) == (160, 1024, 10)
    assert all(one.data.flip and one.data.crop == 4 for one in found.values())
    assert all(found["gpu", net].train.epochs <= 16 for net in NETS)
