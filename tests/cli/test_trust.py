"""Commands that read files run no code that the files name, unless --allow-imports says so."""

import json
import sys

import pytest

from tombola import files

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
def made(cli, tiny, study_file, trace):
    """The folder of a study whose model is the module's, and one of its tickets; the module is forgotten afterwards."""
    result = cli("run", study_file(tiny | {"model": {"name": "theirs:build"}}), "--out", "out/tiny")
    assert result.exit_code == 0, result.output  # a study that is run may import
    assert trace.exists()
    result = cli("run", study_file(tiny | {"name": "own"}), "--out", "out/own")
    assert result.exit_code == 0, result.output
    forget(trace)
    ticket = next(path for path in trace.parent.glob("out/tombola-stages/*/ticket.safetensors") if names_module(path))
    return {"status": ["out/tiny"], "report": ["out/tiny"], "compare": ["out/own", "out/tiny"], "evaluate": [ticket]}


def names_module(path):
    _, description = files.read(path)
    return "theirs" in json.dumps(description) and files.read(path)[0].keys() > {"mask"}


def forget(trace):
    trace.unlink()
    del sys.modules["theirs"]


def test_commands_that_read_refuse_import_paths_until_they_are_allowed(cli, refused, made, trace):
    for command, arguments in made.items():
        said = refused(command, *arguments)
        assert "'theirs:build' is an import path" in said, command
        assert "add --allow-imports, or import the module yourself in Python" in said
        assert not trace.exists(), command
        allowed = cli(command, *arguments, "--allow-imports")
        assert trace.exists(), (command, allowed.output)
        assert "is an import path" not in allowed.output
        forget(trace)


def test_claims_are_judged_without_an_import(cli, made, trace):
    assert cli("claims", *made["report"]).exit_code == 0
    assert not trace.exists()


def test_a_folder_that_a_study_names_is_no_place_of_modules_until_it_is_allowed(cli, made, tmp_path):
    described = json.loads((tmp_path / "out/own/study.json").read_text())
    described["imports"] = str(tmp_path / "planted")
    (tmp_path / "out/own/study.json").write_text(json.dumps(described))
    assert cli("status", "out/own").exit_code == 0
    assert str(tmp_path / "planted") not in sys.path
    assert cli("status", "out/own", "--allow-imports").exit_code == 0
    assert str(tmp_path / "planted") in sys.path
