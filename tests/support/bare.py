"""Python code in a process of its own that lacks some packages, as a machine where they are not installed."""

import subprocess
import sys
from pathlib import Path

WHOLE = ("pydantic", "yaml", "typer", "rich", "pandas", "pyarrow", "scipy", "sklearn", "matplotlib", "jinja2", "datasets")
"""Packages that the whole of tombola needs beside those of its core."""

# what torch asks for by itself is imported before; nothing is found afterwards, in whichever way it is looked for
_START = """
import sys
import torch, safetensors.torch, torch.optim, torch.func, torch.profiler, torch.utils.flop_counter
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split('.')[0] in {blocked!r} else self.finder.find_spec(name, path, target)
for name in [n for n in sys.modules if n.split('.')[0] in {blocked!r}]:
    del sys.modules[name]
sys.meta_path[:] = map(Without, sys.meta_path)
"""


def run_without(blocked: tuple[str, ...], code: str) -> "subprocess.CompletedProcess[str]":
    """The process, from the project's folder; it has succeeded."""
    command = [sys.executable, "-c", _START.format(blocked=blocked) + code]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done
