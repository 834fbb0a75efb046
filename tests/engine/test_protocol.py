"""Another engine needs the store, a RunContext and `missing` alone, and gives the same records."""

from dataclasses import dataclass, field

import torch
from pandas.testing import assert_frame_equal
from rich.console import Console

from tombola.cli.conditions import Conditions
from tombola.cli.run import _run
from tombola.engine.folder import StudyFolder
from tombola.engine.forecast import Guesses
from tombola.engine.local import dataset
from tombola.engine.records import collect, collect_analyses
from tombola.engine.store import Store, missing
from tombola.metrics.columns import names
from tombola.study.stages import RunContext
from tombola.training.checkpoint import arithmetic

CPU = torch.device("cpu")


@dataclass
class InOrder:
    """The smallest engine: one stage after another."""

    store: Store
    failures: dict = field(default_factory=dict)

    def run(self, plan, after_each=lambda: None):
        self.store.prepare()
        for stage in missing(plan, self.store):
            tickets = [self.store.ticket(parent.key) for parent in stage.parents]
            outcome = stage.run(tickets, RunContext(CPU, dataset))
            self.store.save(stage, outcome, {"seconds": 0.0, **arithmetic(CPU), "warnings": []})
            after_each()


def test_it_gives_the_records_of_the_local_engine(tiny, plan_of, run_plan, tmp_path):
    plan = plan_of(tiny | {"arms": ["ticket", "deterministic"], "views": ["overlap", "early_bird"]})
    store, _, engine = run_plan(plan)
    assert not engine.failures
    InOrder(other := Store(tmp_path / "other")).run(plan)
    assert missing(plan, other) == []
    for table in (collect, collect_analyses):
        ours, theirs = (table(plan, there).drop(columns=list(names("timing")), errors="ignore") for there in (store, other))
        assert len(ours)
        assert_frame_equal(ours, theirs, check_exact=True)


def test_the_command_line_runs_a_study_by_it(tiny, tmp_path):
    folder = StudyFolder.of(tiny, tmp_path / "out", None, tmp_path)
    made = []

    def engine(folder, under, watcher, budget):
        made.append(InOrder(folder.store))
        return made[-1]

    with open(tmp_path / "said", "w") as said:
        under = Conditions(console=Console(file=said), device=CPU, threads=torch.get_num_threads(), engine=engine)
        assert _run(folder, under, Guesses()) == 0
    assert len(made) == 1
    assert folder.settled
