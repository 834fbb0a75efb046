"""Imports go one way, the core needs torch and safetensors alone, and nothing heavy is imported early."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from bare import WHOLE, run_without

SOURCE = Path(__file__).parents[1] / "src" / "tombola"

ORDER = [
    *("errors", "streams", "settings", "plugins", "rewind", "tensorfile", "augment"),
    *("posterior", "inference", "batches", "checkpoint", "divergence", "outofmemory", "optim", "ticket"),
    *("pruning", "training", "together", "bayesian", "find", "models", "data", "metrics", "evaluation"),
    *("allocations", "memory", "flops", "ingredients", "stages", "rows", "views", "recipes", "mends", "study"),
    *("labels", "arms", "plan", "store", "records", "claims", "report", "joint", "progress", "naming", "engine"),
    *("forecast", "calibrate", "budget", "folder", "terminal", "allocator", "workers"),
    *("runs", "series", "catalogue", "commands", "cli"),
]
"""Each module or package imports only from those before it (and from its own)."""

CORE = [
    "streams",
    "posterior.state",
    "posterior.predictive",
    "inference",
    "pruning.iterate",
    "ticket",
    "training",
    "together",
]

STUDIES = [*CORE, "study", "plan", "engine", "records", "forecast"]
"""What studies are planned and run with on a bare machine."""


def imports_of(path: Path) -> set[str]:
    """The modules and packages of tombola that a file imports, by their first name; for type checking alone too."""
    inside = path.relative_to(SOURCE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = inside[: len(inside) - node.level + 1]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {(*base, *name.split("."))[0] for name in names}
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path):
    name = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if name == "__init__":
        return  # names of the package, imported when used
    assert name in ORDER, f"give {name} its place in ORDER"
    allowed = {"__version__", *ORDER[: ORDER.index(name) + 1]}
    assert imports_of(path) <= allowed, imports_of(path) - allowed


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
from tombola.cli import main
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


def test_no_file_is_over_400_lines():
    long = {str(p): n for p in SOURCE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long
