"""The files that a reader follows from the command to its records, counted in a run of a small study."""

import subprocess
import sys
from ast import literal_eval

CODE = """
import importlib, inspect, os, sys
from pathlib import Path

import tombola

HOME = str(Path(tombola.__file__).parent) + os.sep
LEAVES = {
    "study/plan.py": "plan_study",
    "inference/vi.py": "VI.gradients",
    "pruning/masks.py": "drop_lowest",
    "training/evaluate.py": "evaluate_ticket",
    "engine/records.py": "write",
}
entered, path, aside = set(), set(), []


def profile(frame, event, arg):
    code = frame.f_code
    home = code.co_filename.startswith(HOME)
    name = code.co_filename.removeprefix(HOME)
    if code.co_filename == "<frozen importlib._bootstrap>" and code.co_name == "_find_and_load":  # modules that are loaded
        if event == "call":
            aside.append(frame)
        elif event == "return":
            aside.pop()
    if event != "call" or aside or not home or not code.co_flags & inspect.CO_OPTIMIZED:
        return
    entered.add(name)
    if LEAVES.get(name) == code.co_qualname:
        stack = set()
        while frame:
            stack.add(frame.f_code.co_filename)
            frame = frame.f_back
        if HOME + "engine/budget.py" not in stack:
            path.update(file.removeprefix(HOME) for file in stack if file.startswith(HOME))


from tombola.cli.app import app
from tombola.engine.folder import StudyFolder

for name in ("torch", "torch._dynamo", "torch.distributed.tensor", "pandas", "pyarrow.parquet", "sklearn.datasets"):
    importlib.import_module(name)  # uncounted: millions of calls

write_report = StudyFolder.write_report


def uncounted(*args, **kwargs):  # the page comes after the records
    sys.setprofile(None)
    try:
        return write_report(*args, **kwargs)
    finally:
        sys.setprofile(profile)


StudyFolder.write_report = uncounted
changes = ["seeds=[0]", "arms=[ticket]", "prune.levels=1", "train.epochs=1", "model.args.hidden=[10]", "evaluate.samples=2"]
sys.setprofile(profile)
try:
    app(["run", "demo", "--device", "cpu", *(word for change in changes for word in ("--set", change))])
except SystemExit as end:
    sys.setprofile(None)
    assert end.code == 0
print([sorted(entered), sorted(path)])
"""


def test_a_run_is_followed_through_few_files(tmp_path):
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    entered, path = literal_eval(done.stdout.splitlines()[-1])
    assert {"cli/app.py", "training/loop.py", "pruning/iterate.py", "engine/records.py"} <= set(path)
    assert len(path) <= 18, path  # those on the call stack of a plan, a step, a pruning, an evaluation or the records
    assert len(entered) <= 104, entered  # all with a function that is called between the command and its records
