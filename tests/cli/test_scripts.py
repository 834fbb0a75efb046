"""Commands of a store: what clean shows and removes, the store's size, and tickets by key."""

import json
import shutil

import pandas as pd
import pytest
import torch
import yaml

import tombola
from support.running import TINY, command_line, leave_out_figures
from tombola.settings import PruneSettings, TrainSettings


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder in which a short study was run into runs/tiny. Only read."""
    home = tmp_path_factory.mktemp("finished")
    (home / "study.yaml").write_text(yaml.safe_dump(TINY))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        leave_out_figures(patch)
        result = command_line("run", "study.yaml", "--quiet", "--set", "checkpoint_seconds=9")
    assert (result.exit_code, result.output) == (0, "")  # quiet
    return home


@pytest.fixture
def finished(ran, cli, tmp_path):
    """A copy of that run in the current folder: the study's folder."""
    shutil.copytree(ran, tmp_path, dirs_exist_ok=True)
    described = json.loads((tmp_path / "runs" / "tiny" / "study.json").read_text())
    described["stages"] = str(tmp_path / "runs" / "tombola-stages")
    (tmp_path / "runs" / "tiny" / "study.json").write_text(json.dumps(described))
    return tmp_path / "runs" / "tiny"


def printed(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_clean_shows_first_and_removes_only_when_told(cli, finished):
    stages = finished.parent / "tombola-stages"
    before = len(list(stages.glob("*/ticket.safetensors")))
    shown = cli("clean", finished)
    assert "nothing was removed: add --yes to free" in shown.output
    assert "studies of" in shown.output
    assert ": tiny" in shown.output
    assert len(list(stages.glob("*/ticket.safetensors"))) == before == 4
    plan = printed(cli("clean", finished, "--json"))
    assert not plan["removed"]
    gone = printed(cli("clean", stages, "--yes", "--keep", "masks", "--json"))  # the store's folder will do
    assert gone["studies"] == ["tiny"]
    assert gone["removed"]
    assert 0 < gone["freed"] < plan["may_free"]
    assert gone["bytes"] == plan["bytes"] - gone["freed"]
    assert list(stages.glob("*/ticket.safetensors")) == []
    assert len(list(stages.glob("*/mask.safetensors"))) == 1
    assert "nothing to remove" in cli("clean", finished, "--keep", "masks").output

    again = cli("run", "study.yaml", "--set", "checkpoint_seconds=9")
    assert "0 of 6 stages to run" in again.output
    assert cli("report", finished).exit_code == 0
    more = cli("run", "study.yaml", "--set", "evaluate.samples=3")
    assert more.exit_code == 0, more.output
    assert "6 of 6 stages to run (4 of them again, because their tickets were removed)" in more.output


def test_clean_refuses_what_is_no_store_and_several(refused, finished, tmp_path):
    assert "holds no study (no study.json)" in refused("clean", tmp_path)
    (tmp_path / "other" / "unfinished").mkdir(parents=True)
    assert "these folders have 2 stores" in refused("clean", finished, tmp_path / "other")


def test_status_shows_the_size_of_the_store(cli, refused, finished):
    assert "store: " in cli("status", finished).output
    found = printed(cli("status", finished, "--json"))
    assert (found["study"], found["stages_done"], found["stages"], found["failed"]) == ("tiny", 6, 6, [])
    assert found["tickets"] == {"ticket (snr)": {"done": 2, "all": 2}}
    files = [path for path in (finished.parent / "tombola-stages").rglob("*") if path.is_file()]
    assert found["store_bytes"] == sum(path.stat().st_size for path in files)
    assert "leave one of them out" in refused("status", finished, "--json", "--watch")


def test_studies_as_json(cli):
    found = {one["name"]: one for one in printed(cli("studies", "--json"))}
    assert found["paper/scores"]["costs"]["cpu"]["alone_seconds"] > 0
    assert printed(cli("studies", "demo", "--json"))["train"]["lr"] == 0.003


def test_claims_are_printed_as_json_or_csv_and_files_are_written_whole(cli, refused, finished):
    rows = printed(cli("claims", finished, "--json", "-"))
    assert {row["claim"] for row in rows} >= {"1a"}
    lines = cli("claims", finished, "--csv", "-").stdout.splitlines()
    assert lines[0].startswith("claim,")
    assert len(lines) == len(rows) + 1
    assert cli("claims", finished, "--json", "table.json").exit_code == 0
    (finished / "link.json").symlink_to("table.json")
    assert cli("claims", finished, "--json", finished / "link.json").exit_code == 0
    assert (finished / "link.json").is_symlink()
    assert json.loads((finished / "table.json").read_text()) == rows
    assert "cannot write nowhere/x.csv" in refused("claims", finished, "--csv", "nowhere/x.csv")


def test_a_ticket_is_evaluated_by_its_key_or_that_of_its_record(cli, refused, finished):
    row = pd.read_parquet(finished / "records.parquet").iloc[1]
    file = f"runs/tombola-stages/{row['ticket']}/ticket.safetensors"
    by_file = printed(cli("evaluate", file, "--json"))
    assert (by_file["model"], by_file["data"], by_file["split"]) == ("mlp", "digits", "test")
    assert by_file["density"] == row["density"]
    for key in (row["ticket"], row["ticket"][:8], row["key"][:8]):
        assert printed(cli("evaluate", key, "--json")) == by_file
    assert "no stage of runs/tombola-stages whose key begins so; give the folder by --store" in refused("evaluate", "0000")
    (other := finished.parent / "tombola-stages" / (row["ticket"][:8] + "0" * 16)).mkdir()
    (other / "record.json").write_text("{}")
    said = refused("evaluate", row["ticket"][:8])
    assert f"2 stages of runs/tombola-stages have keys that begin with {row['ticket'][:8]}" in said
    cli("clean", finished, "--yes")
    assert "was removed from runs/tombola-stages by `tombola clean`" in refused("evaluate", row["ticket"])


def test_a_ticket_that_was_saved_from_python_is_evaluated(cli, refused, tmp_path, user_module):
    user_module(
        "my_net",
        """
        from torch import nn

        def small(width):
            return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        """,
    )
    import my_net

    data = tombola.data.load_data("digits", {})
    found = tombola.find_tickets(
        my_net.small(8),
        (data.prepare(data.train[0]), data.train[1]),
        train=TrainSettings(epochs=1, batch_size=512),
        prune=PruneSettings(levels=0),
        progress=False,
    )
    found[-1].save("mine.safetensors")
    assert "does not name its data (it was saved from Python)" in refused("evaluate", "mine.safetensors")
    assert "does not name its model" in refused("evaluate", "mine.safetensors", "--data", "digits")
    model = "{name: my_net:small, args: {width: 8}}"
    result = printed(cli("evaluate", "mine.safetensors", "--data", "digits", "--model", model, "--json", "--samples", 8))
    probs = found[-1].predict(my_net.small(8), data.prepare(data.test[0]), samples=64).probs
    accuracy = (probs.argmax(-1) == data.test[1]).double().mean().item()
    assert result["accuracy"] == pytest.approx(accuracy, abs=0.05)
    assert "give a name, or" in refused("evaluate", "mine.safetensors", "--data", "[digits]")
    wide = "{name: my_net:small, args: {width: 9}}"
    assert "another model" in refused("evaluate", "mine.safetensors", "--data", "digits", "--model", wide)
    assert torch.get_num_threads() == 1


def test_a_failure_is_said_though_the_run_is_quiet(cli, tiny, study_file):
    result = cli("run", study_file(tiny | {"train": {"lr": 1e9, "optimiser": "sgd"}, "prune": {"levels": 0}}), "--quiet")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("failed: train vi")
