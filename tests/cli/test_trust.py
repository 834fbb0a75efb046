"""Commands that read files run no code that the files name, unless --allow-imports says so."""

import json
import re
import sys

import pandas as pd
import pytest

from tombola import files
from tombola.engine.folder import StudyFolder
from tombola.predict.shipped import PICTURES, SHIPPED

MODULE = """
    from pathlib import Path
    from tombola.models import mlp

    Path({trace!r}).touch()

    def build(input_shape, outputs):
        return mlp(input_shape, outputs, hidden=[8])
"""


@pytest.fixture
def trace(user_module, tmp_path):
    """A file that is there once the module has run."""
    path = tmp_path / "it-ran"
    user_module("theirs", MODULE.format(trace=str(path)))
    return path


@pytest.fixture
def made(cli, tiny, study_file, trace, monkeypatch):
    """Arguments of each command: a study whose model is the module's, one of its tickets; the module is forgotten again."""
    with monkeypatch.context() as quick:  # pages take seconds
        quick.setattr(StudyFolder, "write_report", lambda self, **_: self.path / "report.html")
        for name, model in (("theirs", "theirs:build"), ("own", "mlp")):
            study = tiny | {"name": name, "model": {"name": model}, "prune": {"levels": 0}}
            result = cli("run", study_file(study), "--out", f"out/{name}")
            assert result.exit_code == 0, result.output
    assert trace.exists()  # a study that is run may import
    trace.unlink()
    del sys.modules["theirs"]
    key = pd.read_parquet("out/theirs/records.parquet")["ticket"].iloc[0]
    ticket = f"out/tombola-stages/{key}/ticket.safetensors"
    return {
        "status": ["out/theirs"],
        "report": ["out/theirs"],
        "compare": ["out/own", "out/theirs"],
        "clean": ["out/theirs"],
        "claims": ["out/theirs"],
        "evaluate": [ticket],
        "predict": [ticket, str(PICTURES["digits"])],
    }


def forget(trace):
    trace.unlink()
    del sys.modules["theirs"]


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_ticket_that_names_an_import_path_is_refused_until_it_is_allowed(cli, refused, made, trace, command):
    said = refused(command, *made[command])
    assert "'theirs:build' is an import path" in said
    assert "add --allow-imports, or import the module yourself in Python" in said
    assert not trace.exists()
    allowed = cli(command, *made[command], "--allow-imports")
    assert trace.exists(), allowed.output
    assert "is an import path" not in allowed.output
    forget(trace)


def test_commands_that_read_a_study_import_nothing(cli, made, trace):
    for command in made.keys() - {"evaluate", "predict"}:
        result = cli(command, *made[command])
        if command == "compare":  # two nets, which have nothing in common
            assert "own has mlp on digits, theirs has theirs:build on digits" in result.output
        else:
            assert result.exit_code == 0, (command, result.output)
    assert not trace.exists()


def test_a_folder_that_a_study_names_is_no_place_of_modules(cli, made, tmp_path):
    described = json.loads((tmp_path / "out/own/study.json").read_text())
    described["imports"] = str(tmp_path / "planted")
    (tmp_path / "out/own/study.json").write_text(json.dumps(described))
    assert cli("status", "out/own").exit_code == 0
    assert str(tmp_path / "planted") not in sys.path


def changed(part, **fields):
    return lambda info: info[part].update(fields)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda info: info.update(model=[1]), "its model is no mapping"),
        (changed("model", name=3), "its model has name 3"),
        (changed("model", args=[1]), r"its model has args \[1\]"),
        (changed("model", input_shape="abc"), "its model has input_shape 'abc'"),
        (changed("model", input_shape=[1, "8", 8]), r"its model has input_shape \[1, '8', 8\]"),
        (changed("model", outputs=None), "its model has outputs None"),
        (lambda info: info.update(data="digits"), "its data is no mapping"),
        (changed("data", args=None), "its data has args None"),
        (lambda info: info.update(settings=[1]), "its settings is no mapping"),
        (changed("settings", train=[1]), "its train is no mapping"),
    ],
)
def test_a_description_of_another_shape_is_one_sentence(refused, tmp_path, change, said):
    """Of the shipped ticket, in which the parts are changed that `evaluate` builds a network and data from."""
    tensors, about = files.read(SHIPPED["digits"])
    change(about["info"])
    files.write(tmp_path / "x.safetensors", tensors, about)
    assert re.search(f"the ticket's description is damaged: {said}; take another copy", refused("evaluate", "x.safetensors"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed("model", outputs=10**9), r"has shape \(1000000000, 84\), not \(10, 84\): it is another model"),
        (changed("model", name="mlp", args={"hidden": [10**5] * 3}), "it is another model"),
        (changed("model", name="vit_tiny", args={"depth": 10**9}, input_shape=[3, 32, 32]), "names a larger model than"),
        (changed("model", name="resnet", args={"depth": 6 * 10**9 + 2}, input_shape=[3, 8, 8]), "at most 1202"),
        (
            changed("model", name="vit", args={"dim": 10**18, "heads": 1, "depth": 1}, input_shape=[3, 8, 8]),
            "model vit failed",
        ),
    ],
)
def test_a_model_of_any_size_in_a_description_takes_no_memory(refused, tmp_path, change, said):
    """Each would take from 300 GB up."""
    tensors, about = files.read(SHIPPED["digits"])
    change(about["info"])
    files.write(tmp_path / "x.safetensors", tensors, about)
    assert re.search(said, refused("predict", "x.safetensors", PICTURES["digits"]))


SIGNATURES = {
    "shape": ["abc", [-1], [1, 8.0, 8], None],
    "dtype": [3, "intx", "load", []],
    "classes": [True, "ab", [[1]], {"a": 1}],
    "columns": [3, [None]],
    "size": [0, 10**9, "8"],
    "pool": [0, -1, 10**30, 1.5],
    "unit": [3, None],
    "normalise": [
        {"mean": mean, "std": std, "scale": scale}
        for mean, std, scale in (([0], [0], 1), ([0], [1], 0), ([1, 2], [1], 1), ([10**400], [1], 1), (["1"], [1], 1))
    ],
}


@pytest.mark.parametrize("field", SIGNATURES)
def test_a_signature_that_no_data_has_is_one_sentence(refused, tmp_path, field):
    tensors, about = files.read(SHIPPED["digits"])
    for value in SIGNATURES[field]:
        about["info"]["inputs"][field] = value
        files.write(tmp_path / "x.safetensors", tensors, about)
        assert f"info.inputs is no signature ({field} of the inputs is" in refused(
            "predict", "x.safetensors", PICTURES["digits"]
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, about: about["info"]["settings"]["train"].update(likelihood="gaussian"), "data 'digits' needs 'categ"),
        (lambda t, about: t["trained.posterior.gaussian.mean"].fill_(1e38), "has outputs that are NaN"),
    ],
)
def test_what_evaluates_to_nothing_is_one_sentence(refused, tmp_path, change, said):
    tensors, about = files.read(SHIPPED["digits"])
    change(tensors, about)
    files.write(tmp_path / "x.safetensors", tensors, about)
    assert said in refused("evaluate", "x.safetensors", "--samples", 1)
