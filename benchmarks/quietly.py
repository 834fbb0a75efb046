"""Studies run from a script, and the record of what was found."""

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.record import record
from tombola.engine.local import LocalEngine, dataset
from tombola.engine.progress import Progress
from tombola.engine.records import collect
from tombola.engine.store import Store
from tombola.study.plan import plan_study
from tombola.study.spec import unfold
from tombola.study.stages import Stage


class Silent:
    """A watcher that speaks of failures only."""

    def began(self, stage: Stage, progress: Progress) -> None: ...
    def stepped(self, stage: Stage, done: int, total: int) -> None: ...
    def ended(self, stage: Stage) -> None: ...
    def said(self, sentence: str) -> None: ...

    def failed(self, stage: Stage, sentence: str) -> None:
        raise RuntimeError(sentence)


def records_of(raw: dict[str, Any], store: Path) -> pd.DataFrame:
    """Runs what `store` lacks of the raw study, on a GPU if there is one, and returns all records."""
    plan, there = plan_study(unfold(raw), dataset), Store(store)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    LocalEngine(there, device, Silent(), checkpoint_seconds=20.0).run(plan)
    return collect(plan, there)


def done_of(raw: dict[str, Any], store: Path) -> pd.DataFrame:
    """The records that `store` has already."""
    return collect(plan_study(unfold(raw), dataset), Store(store))


def record_of(benchmark: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """As `benchmarks.record.record`, with the number of threads, and a command line without the places of this machine."""
    given, shown = iter(sys.argv[1:]), []
    for word in given:
        if word in ("--path", "--store", "--out"):
            next(given, "")
            shown += [word, "FILES"] if word == "--path" else []
        else:
            shown.append(word)
    return record(benchmark, shown, rows) | {"threads": torch.get_num_threads(), **more}
