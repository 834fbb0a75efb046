"""The paper's studies at the size gpu on one GPU, part by part, by tombola's own planning, engine and store.

A part is a study of one net and one seed. Each evaluated ticket is in the record when its part has ended or the time is up,
so that a machine which starts with the record alone trains only what is not in it, and what that stands on.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

from benchmarks.gpu.nets import Job
from benchmarks.gpu.pace import Pace
from benchmarks.gpu.packed import pack, unpack
from benchmarks.gpu.sitting import Sitting
from benchmarks.gpu.studies import RELATIVES, STUDIES, Part, parts, variants_of
from tombola.engine.local import LocalEngine
from tombola.engine.progress import Progress
from tombola.engine.records import row_of
from tombola.engine.store import Store, missing
from tombola.study.plan import Plan, names_of, plan_study
from tombola.study.rows import Row as Wanted
from tombola.study.stages import Evaluate, Stage, Train
from tombola.training.checkpoint import Checkpoint, TimeUp


def paper(job: Job, sitting: Sitting) -> bool:
    """Runs what is left of the chosen studies; whether a stage of any has failed. Raises TimeUp."""
    run = _Run(job, sitting)
    left = [part for part in parts(job.studies, job.nets, job.chosen, job.seeds) if not run.has_ended(part)]
    run.say_what_is_left(left)
    for part in left:
        run.part(part)
    failed = [f"{name}: {sentence}" for name, row in sitting.rows.items() for sentence in row["failed"]]
    for sentence in failed:
        sitting.say(f"failed: {sentence}")
    return bool(failed)


class _Run:
    """One sitting at the parts."""

    def __init__(self, job: Job, sitting: Sitting):
        self.job, self.sitting, self.pace = job, sitting, Pace(job.data)
        self.store = _StoreOfSitting(sitting)
        self.store.prepare()
        self._recorded = {ticket["key"]: ticket for row in sitting.rows.values() for ticket in unpack(row["tickets"])}
        self._plan = lru_cache(maxsize=None)(self._plan_of)

    def has_ended(self, part: Part) -> bool:
        """Whether every ticket of the part is recorded, or what lacks has failed."""
        row = self.sitting.rows.get(str(part))
        return row is not None and (row["tickets"]["rows"] == row["wanted"] or bool(row["failed"]))

    def say_what_is_left(self, left: Sequence[Part]) -> None:
        """The parts of the first seed that is not done, with their trainings; those of other seeds are alike."""
        if not left:
            return
        trainings: dict[str, Train] = {}
        for part in (one for one in left if one.seed == left[0].seed):
            new = {stage.key: stage for stage in self.trainings(part) if stage.key not in trainings}
            trainings |= new
            self.sitting.say(f"to run: {part}: {len(new)} trainings{self.about(list(new.values()))}")
        others = sorted({part.seed for part in left} - {left[0].seed})
        more = f"; then the same of seeds {', '.join(map(str, others))}" if others else ""
        about = self.about(list(trainings.values()))
        self.sitting.say(f"to run: seed {left[0].seed}: {len(trainings)} trainings{about}{more}")

    def part(self, part: Part) -> None:
        """Runs what is left of the part; when it has ended, the tickets go that no other part stands on."""
        self._stop_when_over()
        plan, todo = self._plan(part), Plan(str(part), self._left(part))
        self.sitting.say(f"{part}: {len(self.trainings(part))} trainings, {len(todo.rows)} of {len(plan.rows)} evaluations")
        engine = LocalEngine(self.store, self.job.device, _Watcher(self, part, todo), data=lambda _: self.job.data)
        failed: list[str] = []
        try:
            if todo.rows:
                engine.run(todo, self._stop_when_over)
            failed = [sentence for sentence in engine.failures.values() if sentence]
        finally:  # the time may be up
            self._record(part, plan, failed)
            if self.has_ended(part):
                self.store.forget_tickets({stage.key for stage in plan.stages} - self._needed_beside(part))

    def about(self, trainings: Sequence[Train]) -> str:
        """What a line on trainings ends with: minutes, where there is an idea of them."""
        minutes = self.pace.minutes(trainings)
        return "" if minutes is None or not trainings else f", about {minutes:.1f} min"

    def _record(self, part: Part, plan: Plan, failed: list[str]) -> None:
        found = []
        for row in plan.rows:
            if (known := self._recorded.get(row.stage.key)) is not None:
                found.append(known | row.labels)
            elif self.store.done(row.stage.key):
                found.append(row_of(row, self.store))
        self._recorded |= {ticket["key"]: ticket for ticket in found}
        self.sitting.rows[str(part)] = {"wanted": len(plan.rows), "failed": failed, "tickets": pack(found)}
        self.sitting.write()

    def _plan_of(self, part: Part) -> Plan:
        plan = plan_study(variants_of(self.job.studies, part), lambda _: self.job.data)
        for row in plan.rows:
            if row.stage.key in self._recorded:  # by another machine, it may be
                self.pace.learn(_training_of(row), self._recorded[row.stage.key]["train_seconds"])
        return plan

    def _left(self, part: Part) -> list[Wanted]:
        return [row for row in self._plan(part).rows if row.stage.key not in self._recorded]

    def _missing(self, part: Part) -> list[Stage]:
        return missing(Plan("", self._left(part)), self.store)

    def trainings(self, part: Part) -> list[Train]:
        """That have to run for the part."""
        return [stage for stage in self._missing(part) if isinstance(stage, Train)]

    def _needed_beside(self, part: Part) -> set[str]:
        """Keys of the tickets that other parts of the net and seed stand on, whether these were chosen or not."""
        every = parts(self.job.studies, [RELATIVES.get(part.net, part.net)], STUDIES, self.job.seeds)
        others = [one for one in every if (one.net, one.seed) == (part.net, part.seed) and not self.has_ended(one)]
        return {parent.key for one in others for stage in self._missing(one) for parent in stage.parents}

    def _stop_when_over(self) -> None:
        if self.sitting.over:
            raise TimeUp


class _Watcher:
    """Says a line for each evaluated ticket, and how long it will take when the first training of a kind has ended."""

    def __init__(self, run: _Run, part: Part, plan: Plan):
        self._run, self._part, self._names = run, part, names_of(plan)

    def began(self, stage: Stage, progress: Progress) -> None: ...
    def stepped(self, stage: Stage, done: int, total: int) -> None: ...

    def ended(self, stage: Stage) -> None:
        run, record = self._run, self._run.store.record(stage.key)
        run.pace.ended(stage, record["run"]["seconds"])
        if isinstance(stage, Evaluate):
            found = record["record"]
            run.sitting.say(
                f"{self._names[stage.key]}: {100 * found['density']:.2f}% left, accuracy {found['accuracy']:.4f}, "
                f"nll {found['nll']:.4f}"
            )
        elif isinstance(stage, Train) and run.pace.learn(stage, record["record"]["train_seconds"]):
            left = run.trainings(self._part)
            run.sitting.say(f"{self._part}: {len(left)} trainings left{run.about(left)}")

    def failed(self, stage: Stage, sentence: str) -> None:
        self._run.sitting.say(sentence)

    def said(self, sentence: str) -> None:
        self._run.sitting.say(sentence)


class _StoreOfSitting(Store):
    """In OUT/runs; its trainings save themselves and stop when the time is up."""

    def __init__(self, sitting: Sitting):
        super().__init__(sitting.path.parent / "runs" / sitting.path.stem)
        self._sitting = sitting

    def checkpoint(self, key: str, seconds: float, ends: float = math.inf) -> Checkpoint:
        return self._sitting.checkpoint_at(self.checkpoint_path(key), seconds)


def _training_of(row: Wanted) -> Train:
    (trained,) = row.stage.parents
    assert isinstance(trained, Train)
    return trained
