"""The documentation: its code runs, its links lead somewhere, and what it lists is what there is."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pandas as pd
import pytest
import typer
import yaml

import tombola
from support.running import leave_out_figures
from tombola.cli.app import app
from tombola.cli.run import run_studies
from tombola.engine.local import _dataset, dataset
from tombola.metrics.columns import RECORDS
from tombola.metrics.uncertainty_columns import MEASURED
from tombola.pruning.scores import SCORES
from tombola.settings import TrainSettings
from tombola.study.analyses import ANALYSES
from tombola.study.plan import plan_study
from tombola.study.spec import Arm, read, unfold

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.M | re.S)


def files(page):
    """name -> text of the blocks that begin with a file's name."""
    found = [(re.match(r"# (\S+\.(?:py|yaml))\n", block), block) for block in blocks(page, "(?:python|yaml)")]
    return {name[1]: block for name, block in found if name}


def command_lines(page):
    """Lines of shell blocks, and lines with code in them."""
    shell = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return shell + [line for line in PAGES[page].splitlines() if "`" in line]


def with_blocks(language):
    return [page for page in PAGES if blocks(page, language)]


STUDIES = [(page, name) for page in PAGES for name in files(page) if name.endswith(".yaml")]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder `runs` after a small version of the demo."""
    runs = tmp_path_factory.mktemp("demo") / "runs"
    small = ["train.epochs=1", "prune.levels=1", "seeds=[0, 1]", "model.args.hidden=[30, 20]", "evaluate.samples=2"]
    small.append("views=[overlap, connectivity]")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_figures(patch)
        assert run_studies(["demo"], out=runs / "demo", changes=small, device="cpu") == 0
    return runs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Makes an empty folder with the files of a page the current one; modules that lie in it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def write(page):
        for name, text in files(page).items():
            (tmp_path / name).write_text(text)
            if name.startswith("make_"):  # a script that makes the files which the page's studies read
                exec(compile(text, name, "exec"), {"__name__": "__main__"})
        importlib.invalidate_caches()
        return tmp_path

    yield write
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
    _dataset.cache_clear()


SLOW = ("docs/export.md", "docs/trainers.md")  # exporters and trainers of others
ALONE = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # they warn of their own parts
PYTHON = [pytest.param(page, marks=ALONE if page in SLOW else []) for page in with_blocks("python")]


@pytest.mark.parametrize("page", PYTHON)
def test_python_of_a_page_runs_in_order(page, folder, demo, no_figures, monkeypatch):
    """With two epochs where it says more: it runs; what it learns is not asked."""
    monkeypatch.setattr(tombola, "TrainSettings", lambda epochs=30, **more: TrainSettings(epochs=min(epochs, 2), **more))
    here = folder(page)
    (here / "runs").symlink_to(demo)
    namespace = {"__name__": "page"}
    for number, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", with_blocks("yaml"))
def test_studies_of_a_page_can_be_planned(page, folder):
    folder(page)
    for block in blocks(page, "yaml"):
        plan = plan_study(unfold(yaml.safe_load(block)), dataset)
        assert plan.rows


@pytest.mark.thinned(3)
@pytest.mark.parametrize(("page", "name"), STUDIES)
def test_studies_of_how_to_pages_run(page, name, folder, no_figures):
    here = folder(page)
    study = read(name, [])["name"]
    shorter = [f"train.epochs={min(read(name, [])['train'].get('epochs', 30), 2)}"]  # it runs; what it learns is not asked
    assert run_studies([name], changes=shorter, device="cpu") == 0
    records = pd.read_parquet(here / "runs" / study / "records.parquet")
    assert len(records) == len(plan_study(unfold(read(name, [])), dataset).rows)
    assert records["nll"].notna().all()
    assert (here / "runs" / study / "report.html").is_file()


def patched(page, source):
    """Apply the page's diffs to the package at `source`. What is added stands before or after lines that are there."""
    for block in blocks(page, "diff"):
        path, *lines = block.splitlines()
        file = source.parents[1] / path.removeprefix("# ")
        old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
        text = file.read_text()
        assert text.count(old) == 1, f"{page}: {path} has other lines"
        file.write_text(text.replace(old, new))


NO_PAGE = "from tombola.engine.folder import StudyFolder; StudyFolder.write_report = lambda self, *a, **k: self.path"


def test_a_score_and_a_column_are_added_as_the_pages_say(tmp_path):
    source = tmp_path / "src" / "tombola"
    shutil.copytree(ROOT / "src" / "tombola", source)  # with what is compiled: it is known by times and sizes
    patched("docs/add-a-score.md", source)
    patched("docs/add-a-column.md", source)
    changes = ["seeds=[0]", "arms=[ticket]", "prune.score=margin", "prune.levels=1", "train.epochs=1", "evaluate.samples=2"]
    arguments = ["tombola", "run", "demo", "--device", "cpu", *(f"--set={change}" for change in changes)]
    code = f"import sys; sys.argv = {arguments}; from tombola.cli.app import main; {NO_PAGE}; main()"
    environment = os.environ | {"PYTHONPATH": str(source.parent)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    records = pd.read_parquet(tmp_path / "runs" / "demo" / "records.parquet")
    assert list(records["score"]) == ["margin", "margin"]
    assert records["confidence"].between(0.1, 1).all()


def test_api_of_the_readme_is_short():
    first = blocks("README.md", "python")[0]
    assert len(first.splitlines()) < 15
    for name in ("find_tickets", "predict", "save", "load"):
        assert f"{name}(" in first


def heading_anchors(text):
    """The anchors that GitHub makes of headings: lower case, no punctuation, hyphens; a number where one is repeated."""
    prose, seen, anchors = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), {}, set()
    for heading in re.findall(r"^#+ (.+)$", prose, re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        anchors.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
        seen[slug] = seen.get(slug, 0) + 1
    return anchors


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", PAGES[page], flags=re.M | re.S))
    for link in links:
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.is_file(), f"{page}: {link}"
        if anchor:
            assert anchor in heading_anchors(target.read_text()), f"{page}: {link}"


def first_column(page, after, until="\n## "):
    """Names in code style in the first column of the tables between two texts."""
    section = PAGES[page].split(after, 1)[1].split(until, 1)[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, re.M)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_column_of_the_records_is_documented(demo):
    columns = list(pd.read_parquet(demo / "demo" / "records.parquet").columns)
    documented = first_column("docs/records.md", "# Records", until="\n## The table of analyses")
    assert len(documented) == len(set(documented))
    assert set(documented) == RECORDS.keys()
    absent = {"deviance", *(column.name for column in MEASURED)}  # of counts, and of measures that the demo has not
    assert set(columns) == RECORDS.keys() - absent


def test_every_analysis_is_documented():
    assert first_column("docs/analyses.md", "# Analyses of tickets") == list(ANALYSES)


def test_every_score_and_arm_is_documented():
    assert first_column("docs/concepts.md", "\n## Scores") == list(SCORES)
    assert first_column("docs/concepts.md", "\n## Arms") == list(typing.get_args(typing.get_type_hints(Arm)["arm"]))


@pytest.mark.parametrize("name", ["settings", "performance", "recipes", "records"])
def test_a_generated_page_is_what_its_script_prints(name):
    path = ROOT / "docs" / f"make_{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert PAGES[f"docs/{name}.md"] == script.page(), f"run: python docs/make_{name}.py > docs/{name}.md"


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page):
    commands = typer.main.get_command(app).commands
    for line in command_lines(page):
        used = re.findall(r"(?:^|`)tombola ([a-z]+)", line)
        assert set(used) <= commands.keys(), line
        options = {option for name in used for p in commands[name].params for option in p.opts}
        if used:
            assert set(re.findall(r"--[a-z][a-z-]*", line)) <= options, line


def test_every_command_is_in_the_readme():
    commands = typer.main.get_command(app).commands
    assert set(re.findall(r"^\| `tombola ([a-z]+)", PAGES["README.md"], re.M)) == commands.keys()


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for line in command_lines(page):
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", line)) <= targets, line


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == tombola.__version__
    assert citation["license"] == "Apache-2.0"
    assert f"\n## {tombola.__version__}" in PAGES["CHANGELOG.md"]
