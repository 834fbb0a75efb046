"""Imports go one way, from room to room; the core needs torch and safetensors alone; nothing heavy is imported early."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from support.bare import WHOLE, run_without

SOURCE = Path(__file__).parents[2] / "src" / "tombola"

FLOORS = [
    ["errors", "streams"],
    ["settings", "plugins", "files", "metrics"],
    ["posterior", "models", "claims"],
    ["inference", "pruning", "data", "report"],
    ["training"],
    ["study"],
    ["engine"],
    ["cli"],
]
"""The rooms, from the ground up: a room imports only from floors below its own. docs/architecture.md draws them."""

CORE = [
    "streams",
    "posterior.state",
    "posterior.predictive",
    "inference",
    "pruning.iterate",
    "pruning.ticket",
    "training.loop",
]

STUDIES = [*CORE, "study.spec", "study.plan", "engine.local", "engine.records", "engine.forecast"]
"""Modules that plan and run studies on a bare machine."""


def imports_of(path: Path) -> set[str]:
    """Return the rooms that a file imports from, for type checking too."""
    inside = ("tombola", *path.relative_to(SOURCE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = (*inside[: len(inside) - node.level + 1],) if node.level else ()
            names = [node.module] if node.module else []
            dotted = [*base, *".".join(names).split(".")] if names else [*base]
            if dotted[0] == "tombola":
                found |= {dotted[1]} if len(dotted) > 1 else {alias.name for alias in node.names}
    return found


def arrows() -> dict[str, set[str]]:
    """Return each room with the other rooms that it imports from."""
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    found: dict[str, set[str]] = {room: set() for room in rooms - {"__init__"}}
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room in found:
            found[room] |= imports_of(path) - {room}
    return found


def test_every_room_has_its_floor_and_imports_from_lower_floors_only():
    floor_of = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    found = arrows()
    assert found.keys() == floor_of.keys()
    wrong = [f"{room} -> {other}" for room, others in found.items() for other in others if floor_of[other] >= floor_of[room]]
    assert not wrong


def test_the_house_stays_small():
    found = arrows()
    assert len(found) <= 22
    assert len(FLOORS) <= 9
    assert sum(map(len, found.values())) <= 110


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("modules", "also"), [(CORE, ["filelock"]), (STUDIES, [])], ids=["core", "studies"])
def test_the_core_needs_torch_and_safetensors_alone(modules, also):
    """Running studies needs filelock, too, which torch brings along."""
    run_without(
        (*WHOLE, "numpy", *also),
        f"""
import importlib
for name in {modules!r}:
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


def test_no_file_is_over_320_lines():
    long = {str(p): n for p in SOURCE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 320}
    assert not long
