"""Commands that read files run no code that the files name, unless --allow-imports says so."""

import json
import sys

import pandas as pd
import pytest

from tombola.engine.folder import StudyFolder

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
    forget(trace)
    key = pd.read_parquet("out/theirs/records.parquet")["ticket"].iloc[0]
    ticket = f"out/tombola-stages/{key}/ticket.safetensors"
    return {"status": ["out/theirs"], "report": ["out/theirs"], "compare": ["out/own", "out/theirs"], "evaluate": [ticket]}


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
