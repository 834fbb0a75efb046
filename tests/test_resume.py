"""A run that is killed at any moment goes on with the same command and ends with the same bits."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch
import yaml

from tombola.records import ENVIRONMENT, TIMING
from tombola.ticket import load

STUDY = {
    "name": "small",
    "seeds": [0],
    "threads": 1,
    "checkpoint_seconds": 0.05,  # so that trainings are cut in the middle, too
    "data": {"name": "digits", "shift": 1},
    "model": {"name": "conv", "args": {"widths": [8, 16], "batch_norm": True}},
    "train": {"epochs": 6, "batch_size": 32, "lr": 0.005, "schedule": "one_cycle"},
    "prune": {"levels": 1, "fraction": 0.6, "rewind": "epoch:1"},
    "evaluate": {"samples": 4},
    "arms": ["ticket", "deterministic", "transplant", "reinit", "shuffle_even"],
}


def command(study: Path, out: Path) -> list[str]:
    main = "import sys; sys.argv[0] = 'tombola'; from tombola.cli import main; main()"
    return [sys.executable, "-c", main, "run", str(study), "--out", str(out), "--device", "cpu"]


def test_a_run_killed_at_five_instants_ends_with_the_same_bits(tmp_path: Path):
    study = tmp_path / "small.yaml"
    study.write_text(yaml.safe_dump(STUDY))
    whole, cut = tmp_path / "whole" / "small", tmp_path / "cut" / "small"  # each with a store of its own

    began = time.monotonic()
    subprocess.run(command(study, whole), check=True, capture_output=True)
    took = time.monotonic() - began

    instants = random.Random(18)
    survived = 0
    for _ in range(5):
        process = subprocess.Popen(command(study, cut), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=instants.uniform(0.3, 0.9) * took)
            survived += 1  # what was left took less time than the instant
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert survived < 4, "too few kills to prove anything"
    subprocess.run(command(study, cut), check=True, capture_output=True)

    differing = [*TIMING, *ENVIRONMENT]
    tables = [pd.read_parquet(folder / "records.parquet").drop(columns=differing) for folder in (whole, cut)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)

    stores = [folder.parent / "tombola-stages" for folder in (whole, cut)]
    tickets = [sorted(path.relative_to(store) for path in store.glob("*/ticket.safetensors")) for store in stores]
    assert tickets[0] == tickets[1]
    assert len(tickets[0]) > 12
    for path in tickets[0]:
        a, b = (load(store / path) for store in stores)
        assert torch.equal(a.mask, b.mask)
        for one, other in ((a.rewind, b.rewind), (a.trained, b.trained)):
            assert (one is None) == (other is None)
            for name, value in one.tensors().items() if one else ():
                assert torch.equal(value, other.tensors()[name]), (path, name)
