"""What the commands do and print, and the codes they leave with."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import unicodedata

import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

import tombola
from support.running import TINY, command_line
from tombola.cli.app import app

OPTIONS = {
    "run": {"studies", "--out", "--set", "--device", "--dry-run", "--jobs", "--store", "--minutes", "--quiet"}
    | {"--concurrent", "--engine", "--address", "--gpu-share", "--slurm", "--tracker"},
    "status": {"folder", "--watch", "--json"},
    "report": {"folder", "--out", "--formats"},
    "compare": {"first", "second", "--out", "--formats"},
    "claims": {"folders", "--csv", "--json"},
    "studies": {"name", "--json"},
    "clean": {"folders", "--keep", "--orphans", "--yes", "--json"},
    "evaluate": {"ticket", "--samples", "--seed", "--batch-norm", "--batch-size", "--split", "--device", "--store"}
    | {"--model", "--data", "--json", "--allow-imports"},
    "predict": {"ticket", "inputs", "--samples", "--moments", "--mean", "--abstain-at", "--out", "--seed", "--batch-size"}
    | {"--compile", "--resize", "--split", "--device", "--store", "--model", "--data", "--json", "--quiet"}
    | {"--allow-imports"},
    "export": {"ticket", "--to", "--samples", "--moments", "--store-as", "--seed", "--store", "--model", "--data"}
    | {"--allow-imports"},
}


def test_version(cli):
    result = cli("--version")
    assert result.exit_code == 0
    assert result.output == f"tombola {tombola.__version__}\n"


def test_the_commands_and_their_options_are_these(cli):
    assert {command.name for command in app.registered_commands} == set(OPTIONS)
    for command, options in OPTIONS.items():
        shown = cli(command, "--help").output
        for option in options:
            assert not option.startswith("--") or option in shown, (command, option)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A finished run of a short study, and its figures drawn: its result and the folder it was started in. Only read."""
    home = tmp_path_factory.mktemp("finished")
    (home / "study.yaml").write_text(yaml.safe_dump(TINY | {"arms": ["ticket", "reinit"]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("COLUMNS", "200")
        result = command_line("run", "study.yaml", "--out", "out/tiny")
    assert result.exit_code == 0, result.output
    return result, home


@pytest.fixture
def finished(ran, cli, tmp_path):
    """A copy of that run in the current folder: the study's folder."""
    shutil.copytree(ran[1], tmp_path, dirs_exist_ok=True)
    return tmp_path / "out" / "tiny"


def test_run_prints_a_table_and_writes_records_and_a_page(ran):
    result, folder = ran[0], ran[1] / "out" / "tiny"
    assert "ticket (snr)" in result.output
    assert "re-init (snr)" in result.output
    assert str(folder.name) in result.output
    page = (folder / "report.html").read_text()
    assert page.index("Figure 1.") < page.index("<nav")
    assert "learning rate" in page
    assert (folder / "figures" / "1-accuracy.png").stat().st_size > 5000
    table = pd.read_parquet(folder / "records.parquet")
    assert list(table["curve"]) == ["ticket (snr)"] * 2 + ["re-init (snr)"]
    for column in ("study", "stage", "key", "arm", "density", "density_all", "accuracy", "ece_null", "mace_null", "torch"):
        assert table[column].notna().all(), column


def test_the_same_command_again_runs_nothing(cli, finished):
    again = cli("run", "study.yaml", "--out", "out/tiny")
    assert "0 of" in again.output
    assert again.exit_code == 0


def test_a_finished_study_keeps_its_page_and_shows_its_table(cli, finished):
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*")}
    again = cli("run", "study.yaml", "--out", "out/tiny")
    assert before == {file: file.stat().st_mtime_ns for file in finished.rglob("*")}
    assert "ticket (snr)" in again.output
    assert "out/tiny/report.html" in again.output


def test_figures_come_in_the_formats_that_are_asked_for(cli, refused, finished):
    folder = finished
    assert {file.suffix for file in (folder / "figures").iterdir()} == {".png", ".csv"}
    said = refused("report", folder, "--formats", "png,gif")
    assert said == "--formats png,gif: unknown format 'gif'; choose from png, svg, pdf"
    assert cli("report", folder, "--formats", "svg,pdf", "--out", "other/page.html").exit_code == 0
    assert {file.suffix for file in (folder.parents[1] / "other" / "figures").iterdir()} == {".svg", ".pdf", ".csv"}


def test_a_study_beside_it_reuses_its_stages(cli, finished, tiny, study_file):
    other = study_file(tiny | {"name": "other"}, "other.yaml")
    assert "0 of 6 stages to run" in cli("run", other, "--out", "out/other").output.replace("\n", " ")


@pytest.mark.usefixtures("quick_pages")
def test_dry_run_shows_the_graph_and_a_forecast_before_anything_was_run(cli, tiny, study_file, tmp_path):
    path = study_file(tiny)
    before = cli("run", path, "--out", "out/tiny", "--dry-run")
    assert re.search(r"about [\d.]+ s to go, at the pace of a few steps and of the stages that are done", before.output)
    assert "prune 0/1 → train 0/1 → evaluate 0/1" in before.output
    assert not (tmp_path / "out").exists()  # nothing was written
    cli("run", path, "--out", "out/tiny")
    after = cli("run", path, "--out", "out/tiny", "--dry-run", "--set", "prune.levels=2")
    assert "prune 1/1 → train 1/1 → evaluate 1/1" in after.output
    assert "to go, at the pace" in after.output


def test_status_and_report_read_a_folder(cli, finished, tmp_path):
    assert "0 to run" in cli("status", finished).output
    result = cli("report", finished, "--out", tmp_path / "page.html")
    assert result.exit_code == 0
    assert "<html" in (tmp_path / "page.html").read_text()


def test_report_of_an_unfinished_study_says_so(cli, finished):
    described = json.loads((finished / "study.json").read_text())
    (finished / "study.json").write_text(json.dumps(described | {"stages": str(finished.parent / "tombola-stages")}))
    shutil.rmtree(finished.parent / "tombola-stages" / pd.read_parquet(finished / "records.parquet")["key"].iloc[-1])
    assert cli("report", finished).exit_code == 0
    assert "unfinished" in (finished / "report.html").read_text()


def test_a_plan_that_is_missing_damaged_or_of_other_settings_is_refused_until_the_study_is_run_again(cli, refused, finished):
    plan, study = finished / "plan.json", finished / "study.json"
    whole, described = plan.read_text(), json.loads(study.read_text())
    described["study"]["prune"]["levels"] = 2
    for damage in (
        plan.unlink,
        lambda: plan.write_text(whole[:-9]),
        lambda: plan.write_text("[]"),
        lambda: plan.write_text(whole.replace('"format": 1', '"format": 0')),
        lambda: plan.write_text(whole.replace('"steps": ', '"step": ')),
        lambda: plan.write_text(whole.replace('"curve": ', '"curves": ')),
        lambda: plan.write_text(re.sub(r'"[0-9a-f]{24}"', '"../../../elsewhere"', whole)),
        lambda: plan.write_text(re.sub(r'"level": 1', '"level": "x"', whole)),
        lambda: plan.write_bytes(b"\xff"),
        lambda: plan.write_text("[" * 100_000),
        lambda: (plan.write_text(whole), study.write_text(json.dumps(described))),
    ):
        damage()
        for command in ("status", "report", "clean"):
            assert "start the same 'tombola run' again" in refused(command, finished)


@pytest.mark.parametrize(
    "change",
    [
        {"started": {"a": 1}},
        {"imports": None},
        {"stages": [1]},
        {"started": "\ud800"},
        {"study": {"name": 3}},
        {"study": {"name": "\ud800"}},
        {"study": [1]},
    ],
)
def test_a_study_folder_of_another_shape_is_one_sentence(refused, finished, change):
    described = json.loads((finished / "study.json").read_text())
    (finished / "study.json").write_text(json.dumps(described | change))
    for command in ("status", "report", "clean"):
        assert "study.json is damaged" in refused(command, finished)


STEERING = "\x1b]0;theirs\x07\x9b2J\u202e\ud800"
"""A window's title, a cleared screen, letters from right to left, and half a pair, which no terminal can be sent."""


def test_names_from_files_steer_no_terminal(finished):
    plan = finished / "plan.json"
    whole = json.loads(plan.read_text())
    for _, labels in whole["rows"]:
        labels["curve"] = STEERING
    plan.write_text(json.dumps(whole))
    shown = CliRunner().invoke(app, ["status", str(finished)], color=True)
    assert shown.exit_code == 0, shown.output
    assert "\\x1b]0;theirs" in shown.output
    refused = CliRunner().invoke(app, ["status", f"no{STEERING[:-1]}where"], color=True)
    assert refused.exit_code == 2
    assert "no\\x1b]0;theirs\\x07\\x9b2J\\u202ewhere holds no study" in refused.stderr
    for text in (shown.output, refused.stderr):
        assert not [c for c in text if c in STEERING and unicodedata.category(c) in ("Cc", "Cf", "Cs")]


def test_a_path_that_the_system_refuses_is_one_sentence(refused, tmp_path):
    (tmp_path / "there.onnx").mkdir()
    assert "Is a directory: " in refused("export", "digits", "--to", "there.onnx")
    for command in (["evaluate", "x" * 5000], ["predict", "digits", "x" * 5000]):
        assert "File name too long: xxx" in refused(*command)


def test_reading_commands_import_nothing_heavy_that_they_do_not_need(finished):
    """A run that finds all done and the page written only reads, too."""
    stages = json.loads((finished / "study.json").read_text())["stages"]
    heavy = {"torch", "sklearn", "matplotlib", "statsmodels", "pandas"}
    for command, needed in (
        (["studies"], set()),
        (["status", finished], set()),
        (["clean", finished], set()),
        (["claims", finished], {"pandas"}),
        (["report", finished], {"pandas", "matplotlib"}),
        (["run", "study.yaml", "--out", "out/tiny", "--store", stages], {"pandas"}),
    ):
        code = (
            "import sys\nfrom tombola.cli.app import main\ntry:\n    main()\nexcept SystemExit as end:\n"
            f"    print(end.code, *sorted({heavy} & set(sys.modules)), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, check=True)
        assert done.stderr.split() == ["0", *sorted(needed)], command


def test_evaluate_measures_a_ticket_as_the_study_did(cli, finished):
    table = pd.read_parquet(finished / "records.parquet")
    ticket = finished.parent / "tombola-stages" / table["ticket"].iloc[1] / "ticket.safetensors"
    result = cli("evaluate", ticket, "--samples", 64)
    assert result.exit_code == 0
    shown = {cells[1].strip(): cells[2].strip() for line in result.output.splitlines() if len(cells := line.split("│")) > 3}
    assert float(shown["density"]) == pytest.approx(table["density"].iloc[1])
    assert float(shown["accuracy"]) == pytest.approx(table["accuracy"].iloc[1], abs=0.05)  # other weight samples


def test_studies_lists_and_prints(cli):
    assert "demo" in cli("studies").output
    assert yaml.safe_load(cli("studies", "demo").output)["name"] == "demo"


@pytest.mark.usefixtures("quick_pages")
def test_a_failed_stage_is_exit_code_1_and_the_rest_is_done(cli, tiny, study_file):
    arms = ["deterministic", {"arm": "ticket", "train": {"lr": 1e9, "optimiser": "sgd"}}]
    result = cli("run", study_file(tiny | {"arms": arms}), "--out", "out/tiny")
    assert result.exit_code == 1
    assert "the loss is" in result.output
    assert "deterministic (magnitude)" in result.output
    assert len(pd.read_parquet("out/tiny/records.parquet")) == 2


@pytest.mark.parametrize(("end", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_has_its_exit_code_and_the_same_command_goes_on(end, code, tiny, study_file, tmp_path):
    path = study_file(tiny | {"train": {"epochs": 400, "batch_size": 16}, "seeds": [0, 1, 2, 3]})
    # a shell's background job ignores interrupts, and what it starts inherits that: these tests may be one
    heeding = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    main = heeding + "sys.argv[0] = 'tombola'; from tombola.cli.app import main; main()"
    command = [sys.executable, "-c", main, "run", str(path), "--out", str(tmp_path / "out" / "tiny"), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("tombola-stages/*/record.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(end)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "the same command goes on" in output
    assert "Traceback" not in output
    assert (tmp_path / "out" / "tiny" / "records.parquet").is_file()


@pytest.mark.usefixtures("quick_pages")
def test_threads_of_a_study_are_used(cli, tiny, study_file):
    threads = torch.get_num_threads()
    try:
        cli("run", study_file(tiny | {"prune": {"levels": 0}, "threads": 2}), "--out", "out/tiny")
        assert torch.get_num_threads() == 2
        assert list(pd.read_parquet("out/tiny/records.parquet")["threads"]) == [2]
    finally:
        torch.set_num_threads(threads)


def test_a_study_of_files_is_looked_at_from_any_folder(cli, tiny, study_file, tmp_path, monkeypatch):
    from PIL import Image

    from tombola.engine.local import _dataset

    for i in range(24):
        place = tmp_path / "pets" / ("train" if i % 3 else "test") / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 10 * i).save(place / f"{i}.png")
    study = tiny | {"data": {"name": "folder", "args": {"path": "pets"}}, "prune": {"levels": 0}}
    assert cli("run", study_file(study), "--out", "out/pets").exit_code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for command in ("status", "report"):
        _dataset.cache_clear()  # as in another process
        result = cli(command, "../out/pets")
        assert result.exit_code == 0, result.output
