"""Imports go one way, from room to room; the core needs torch and safetensors alone; nothing heavy is imported early."""

import ast
import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from support.bare import WHOLE, run_without

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tombola"

CORE = [
    "streams",
    "posterior.state",
    "posterior.predictive",
    "inference",
    "pruning.iterate",
    "pruning.ticket",
    "training.loop",
]


@pytest.fixture(scope="module")
def house():
    """The script that draws the rooms from the imports, and lists them by floor."""
    spec = importlib.util.spec_from_file_location("make_architecture", ROOT / "docs" / "make_architecture.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_every_room_has_its_floor_and_imports_from_lower_floors_only(house):
    floor_of = {room: floor for floor, rooms in enumerate(house.FLOORS) for room in rooms}
    found = house.arrows()
    assert found.keys() == floor_of.keys()
    wrong = [f"{room} -> {other}" for room, others in found.items() for other in others if floor_of[other] >= floor_of[room]]
    assert not wrong


def test_the_house_stays_small(house):
    found = house.arrows()
    assert len(found) <= 22
    assert len(house.FLOORS) <= 9
    assert sum(map(len, found.values())) <= 110


def test_the_picture_is_what_the_imports_say(house):
    said = "run: python docs/make_architecture.py > docs/architecture.svg"
    assert (ROOT / "docs" / "architecture.svg").read_text() == house.picture(), said


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_core_needs_torch_and_safetensors_alone():
    run_without(
        (*WHOLE, "numpy", "filelock"),
        f"""
import importlib
for name in {CORE!r}:
    importlib.import_module('tombola.' + name)
""",
    )


def test_importing_tombola_or_asking_for_help_imports_no_torch():
    assert run("import sys, tombola; print('torch' in sys.modules)").strip() == "False"
    code = """
import sys
sys.argv = ['tombola', '--help']
from tombola.cli.app import main
try:
    main()
except SystemExit:
    pass
print('torch' in sys.modules, 'pandas' in sys.modules)
"""
    assert run(code).splitlines()[-1] == "False False"


def test_every_public_name_is_there():
    import tombola

    for name in tombola.__all__:
        assert getattr(tombola, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = tombola.nonsense


def test_no_file_is_over_320_lines_and_no_function_over_60():
    for path in [*SOURCE.rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        text = path.read_text()
        assert len(text.splitlines()) <= 320, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                assert node.end_lineno - first < 60, f"{path}: {node.name}"


def test_files_of_tests_have_names_of_their_own():
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []  # pytest imports them by these
