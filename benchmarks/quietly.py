"""Studies that a script runs: their arguments, and the records of what was found."""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import record
from tombola.engine.local import LocalEngine, dataset
from tombola.engine.progress import Watcher
from tombola.engine.records import collect
from tombola.engine.store import Store
from tombola.study.plan import plan_study
from tombola.study.recipes import cifar10
from tombola.study.spec import unfold
from tombola.study.stages import Stage

LEFT = 0.05
"""Density of the tickets of `pruned_at_once`."""


def parser(module: str, doc: str | None, *, seeds: int, store: str) -> argparse.ArgumentParser:
    """Return a parser of the options that all these scripts have."""
    made = record.parser(module, doc, timed=False)
    made.add_argument("--path", required=True, help="CIFAR-10: files on this machine, or its name on the hub")
    made.add_argument("--seeds", type=int, default=seeds, help=f"seeds ({seeds})")
    made.add_argument("--store", type=Path, default=Path(store), help=f"finished stages ({store})")
    return made


def recipe_parser(module: str, doc: str | None, nets: list[str] | None = None) -> argparse.ArgumentParser:
    """Return a parser for scripts about the recipes: `parser` with a size and nets."""
    sizes = cifar10()["sizes"]
    known = list(sizes["cpu"]["nets"])
    made = parser(module, doc, seeds=2, store="runs/recipes")
    made.add_argument("--size", choices=sizes, default="cpu", help="which recipe (cpu)")
    made.add_argument("--nets", nargs="+", choices=known, default=nets or known, help="which nets")
    return made


def pruned_at_once(name: str, args: argparse.Namespace, net: str) -> dict[str, Any]:
    """Return the raw study of a net by its recipe, dense and with `LEFT` left, Bayesian and deterministic."""
    return {
        "name": f"{name}-{args.size}",
        "size": args.size,
        "nets": [net],
        "seeds": list(range(args.seeds)),
        "data": {"args": {"path": args.path}},
        "prune": {"fraction": 1 - LEFT, "levels": 1},
        "arms": ["ticket", "deterministic"],
    }


class Silent(Watcher):
    """A watcher that reports failures only, as an error."""

    def failed(self, stage: Stage, sentence: str) -> None:
        raise RuntimeError(sentence)


def records_of(raw: dict[str, Any], store: Path) -> pd.DataFrame:
    """Run the stages of the raw study that `store` lacks, on a GPU if there is one, and return all records."""
    plan, there = plan_study(unfold(raw), dataset), Store(store)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    LocalEngine(there, device, Silent(), checkpoint_seconds=20.0).run(plan)
    return collect(plan, there)


def done_of(raw: dict[str, Any], store: Path) -> pd.DataFrame:
    """Return the records that `store` has already."""
    return collect(plan_study(unfold(raw), dataset), Store(store))


def write(out: Path | None, benchmark: str, rows: list[record.Row], **more: Any) -> None:
    """Write the record of a script's rows, with the number of threads."""
    record.write(out, benchmark, rows, threads=torch.get_num_threads(), **more)
