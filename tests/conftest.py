"""What several test files need: a command line in this process, modules of a user, small studies."""

import importlib
import os
import sys
import textwrap
from collections import Counter
from copy import deepcopy

import pytest
import torch
import yaml
from hypothesis import settings

from support.running import TINY, command_line, leave_out_figures

torch.set_num_threads(1)
settings.register_profile("tombola", deadline=None, max_examples=25)  # other ones in each run; the first pays for imports
settings.load_profile("tombola")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each process that tests start would compile torch anew: four seconds


@pytest.hookimpl(tryfirst=True)  # before slow ones are left out
def pytest_collection_modifyitems(items):
    """Of a test marked `thinned(n)`, leave about one parameter set in n, spread evenly, and make the others slow."""
    places = Counter()
    for item in items:
        if mark := item.get_closest_marker("thinned"):
            spread = places[item.function] * 0.618034 % 1  # the golden ratio's multiples meet no period of the parameters
            places[item.function] += 1
            if spread >= 1 / mark.args[0]:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _import_path_restored(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(scope="session", autouse=True)
def decoded(tmp_path_factory):
    """The folder of decoded data, one for all tests and for fixtures of any scope."""
    folder = tmp_path_factory.mktemp("decoded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOMBOLA_CACHE", str(folder))
        yield folder


@pytest.fixture
def tiny():
    """Raw settings of a study of seconds, to change."""
    return deepcopy(TINY)


@pytest.fixture
def plan_of():
    """The plan of raw settings."""
    from tombola.engine.local import dataset
    from tombola.study.plan import plan_study
    from tombola.study.spec import unfold

    return lambda raw: plan_study(unfold(raw), dataset)


@pytest.fixture
def brief_toys(monkeypatch):
    """The size `toy` with trainings of a few steps, for tests of what is run and not of what is learned."""
    from tombola.study.recipes import cifar10

    common = cifar10()["sizes"]["toy"]["common"]
    monkeypatch.setitem(common["train"], "epochs", 1)
    monkeypatch.setitem(common["train"], "batch_size", 64)
    monkeypatch.setitem(common["data"]["args"], "test", 1400)


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Writes a module that a study can name; it is forgotten after the test."""
    from tombola.engine.local import _dataset

    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    _dataset.cache_clear()


@pytest.fixture
def study_file(tmp_path):
    """Writes raw settings, or text, as a YAML file."""

    def write(raw, name="study.yaml"):
        path = tmp_path / name
        path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw))
        return path

    return write


@pytest.fixture
def no_figures(monkeypatch):
    """Pages without pictures; a fixture of a wider scope draws them."""
    leave_out_figures(monkeypatch)


@pytest.fixture
def quick_pages(monkeypatch):
    """Pages of two words. One takes seconds, and what is on it is tested elsewhere."""
    from tombola.engine.folder import StudyFolder

    def write_report(self, out=None, failed=None):
        page = self.path / "report.html"
        page.write_text("a page")
        return page

    monkeypatch.setattr(StudyFolder, "write_report", write_report)


@pytest.fixture
def cli(tmp_path, monkeypatch, no_figures):
    """The command line in this process, in an empty folder. An error that it does not catch fails the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return command_line


@pytest.fixture
def refused(cli):
    """Runs a command that must be refused: exit code 2 and one sentence; returns the sentence."""

    def call(*args):
        result = cli(*args)
        assert result.exit_code == 2, result.output
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("tombola: ")
        assert "Traceback" not in result.output
        return lines[0].removeprefix("tombola: ")

    return call


class Recorder:
    """A watcher that counts."""

    def __init__(self):
        self.began_of, self.ended_of, self.sentences, self.steps = [], [], [], 0

    def began(self, stage, progress):
        self.began_of.append(stage.key)

    def stepped(self, stage, done, total):
        self.steps += 1

    def ended(self, stage):
        self.ended_of.append(stage.key)

    def failed(self, stage, sentence):
        self.sentences.append(sentence)

    def said(self, sentence):
        self.sentences.append(sentence)

    def times(self):
        return Counter(self.began_of)


@pytest.fixture
def run_plan(tmp_path):
    """Runs a plan into a store; returns the store, the watcher and the engine."""
    from tombola.engine.local import LocalEngine
    from tombola.engine.store import Store

    def run(plan, root="stages", watcher=None, **more):
        store, watcher = Store(tmp_path / root), watcher or Recorder()
        engine = LocalEngine(store, torch.device("cpu"), watcher, **more)
        engine.run(plan)
        return store, watcher, engine

    return run
