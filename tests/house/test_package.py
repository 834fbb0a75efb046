"""The package as it is installed: wheel and sdist alone in a new environment, the oldest torch, the newest Python."""

import functools
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FIRST_LEVEL = ["seeds=[0]", "prune.levels=1", "train.epochs=1", "evaluate.samples=2", "arms=[ticket, deterministic]"]
"""Changes that leave of the demo its first level."""

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def call(*command, cwd, **environment):
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, env=clean | environment)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@functools.cache
def reached():
    """Whether pip finds its index."""
    command = [sys.executable, "-m", "pip", "index", "versions", "filelock"]
    return subprocess.run(command, capture_output=True).returncode == 0


def environment(folder, python, *requirements):
    """Return the folder of commands of a new environment: of the versions that are tested with, unless it names a torch."""
    if not reached():
        pytest.skip("no package index can be reached")
    call(python, "-m", "venv", folder, cwd=folder.parent)
    own = [item for item in requirements if item.startswith("torch")]  # an old one needs an old sympy
    install = [folder / "bin" / "pip", "install", "-q", *([] if own else ["-c", ROOT / "constraints.txt"])]
    call(*install, *(own or ["torch"]), cwd=folder.parent)  # first: the build is then found by all that depends on it
    call(*install, *requirements, cwd=folder.parent)
    return folder / "bin"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist, from a copy of the tracked files."""
    home = tmp_path_factory.mktemp("built")
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if (ROOT / name).is_file():
            (home / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, home / "source" / name)
    if not reached():
        pytest.skip("no package index can be reached")
    call(sys.executable, "-m", "venv", "builder", cwd=home)
    call(home / "builder" / "bin" / "pip", "install", "-q", "build", cwd=home)
    call(home / "builder" / "bin" / "python", "-m", "build", "--outdir", home, "source", cwd=home)
    (wheel,), (sdist,) = home.glob("*.whl"), home.glob("*.tar.gz")
    return wheel, sdist


def runs_the_demo(bin_, folder):
    changes = [f"--set={change}" for change in FIRST_LEVEL]
    said = call(bin_ / "tombola", "run", "demo", "--device", "cpu", *changes, cwd=folder)
    assert "0.8" in said or "0.7" in said, said
    for name in ("records.parquet", "report.html", "study.json"):
        assert (folder / "runs" / "demo" / name).stat().st_size > 100
    assert "paper/scores" in call(bin_ / "tombola", "studies", "--json", cwd=folder)


@pytest.mark.parametrize("kind", [0, 1], ids=["wheel", "sdist"])
def test_it_is_installed_alone_and_runs_the_first_level_of_the_demo(kind, built, tmp_path):
    bin_ = environment(tmp_path / "env", sys.executable, str(built[kind]))
    assert "site-packages" in call(bin_ / "python", "-c", "import tombola; print(tombola.__file__)", cwd=tmp_path)
    runs_the_demo(bin_, tmp_path)


def test_the_oldest_torch_of_the_range(built, tmp_path):
    (oldest,) = (item.removeprefix("torch>=") for item in PROJECT["dependencies"] if item.startswith("torch>="))
    bin_ = environment(tmp_path / "env", sys.executable, f"torch=={oldest}.*", str(built[0]))
    assert call(bin_ / "python", "-c", "import torch; print(torch.__version__)", cwd=tmp_path).startswith(oldest)
    runs_the_demo(bin_, tmp_path)


def test_python_3_13(built, tmp_path):
    candidates = [shutil.which("python3.13"), *Path.home().glob(".pyenv/versions/3.13*/bin/python3.13")]
    works = [it for it in candidates if it and subprocess.run([it, "--version"], capture_output=True).returncode == 0]
    if not works:
        pytest.skip("there is no python3.13 on this machine")
    bin_ = environment(tmp_path / "env", works[0], str(built[0]))
    runs_the_demo(bin_, tmp_path)
