"""A simulation of large studies: stages that do nothing, in chains of ten, and a store of as many outcomes.

It answers how plan, pick of the next stage, locks, listing of the store and resume grow with the number of stages.
"""

import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from tombola.engine.local import LocalEngine
from tombola.engine.progress import Watcher
from tombola.engine.store import Store, missing
from tombola.pruning.ticket import Ticket
from tombola.study.stages import Outcome, RunContext, Stage

_CHAIN = 10
_RUN = 200  # stages that are run of each study, with all others waiting


@dataclass(frozen=True, kw_only=True, eq=False)
class Nothing(Stage):
    """Stage that does nothing."""

    kind: ClassVar[str] = "nothing"
    number: int

    def describe(self) -> dict[str, Any]:
        return {"number": self.number}

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        return Outcome(None, {"number": self.number})


class _Enough(BaseException):
    """End of a run after some stages."""


class _Stops(Watcher):
    def __init__(self) -> None:
        self.left = _RUN

    def ended(self, stage: Stage) -> None:
        self.left -= 1
        if not self.left:
            raise _Enough


class Simulated(LocalEngine):
    """Engine of stages without tickets."""

    def _ticket(self, stage: Stage) -> Any:
        return None


def simulate(root: Path, count: int, tell: Callable[[str, float], None]) -> None:
    """Tell seconds and megabytes of a study of `count` stages."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    stages = _chains(count)
    names = {stage.key: str(number) for number, stage in enumerate(stages)}
    tell("plan, s", time.process_time() - began)
    tell("plan, MB", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3)
    store = Store(root / f"stages-{count}")
    store.prepare()
    began = time.process_time()
    with suppress(_Enough):
        Simulated(store, torch.device("cpu"), _Stops()).run_stages(stages, names, "simulation")
    plan: Any = SimpleNamespace(stages=stages, wanted=[SimpleNamespace(read=stages)])
    tell("run, ms of processor a stage", 1e3 * (time.process_time() - began) / _RUN)
    run = {"seconds": 0.0, "device": "cpu", "torch": torch.__version__, "threads": 1}
    for stage in missing(plan, store):
        store.save(stage, Outcome(None, {"number": stage.number}), run)
    again = Store(store.root)
    began = time.process_time()
    again.keys()
    tell("a listing of the store, s", time.process_time() - began)
    began = time.process_time()
    if missing(plan, again):
        raise RuntimeError("a finished stage is missing")
    tell("resume of a finished study, s", time.process_time() - began)
    began = time.process_time()
    for stage in stages[:1000]:
        lock = again.lock(stage.key)
        lock.acquire(blocking=False)
        again.unlock(stage.key, lock)
    tell("locks a second", min(count, 1000) / (time.process_time() - began))


def _chains(count: int) -> list[Stage]:
    """Return the stages chain by chain, as a study's plan has them."""
    found: list[Stage] = []
    for number in range(count):
        parents = (found[-1],) if number % _CHAIN else ()
        found.append(Nothing(parents=parents, number=number))
    return found
