"""One sprint: python -m benchmarks.gpu sprint --path FILES --minutes 9 [--earlier FOLDER ...] --out FOLDER.

Goes on from earlier sprints' records and masks: first the recipes of nets that have none, then the paper's studies, what
tells most a minute first, or the study `field` (--studies field). Saves every minute; leaves at most 8 files of 16 MiB in
FOLDER. `collect` puts several sprints together.
Exit code 0: the time was used or everything is done; 1: a stage failed; 2: bad input.
"""

import argparse
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import torch

from benchmarks.gpu.sprint import archive, search
from benchmarks.gpu.sprint.agenda import FIELD, STUDIES, Agenda
from benchmarks.gpu.sprint.memory import MemoryStore
from benchmarks.record import hardware, versions
from tombola.engine import records
from tombola.engine.beside import SideBySide
from tombola.engine.local import LocalEngine
from tombola.engine.progress import Progress, Watcher
from tombola.engine.store import missing
from tombola.errors import TombolaError
from tombola.study.plan import Plan, names_of
from tombola.study.stages import Evaluate, Stage, Train
from tombola.training.checkpoint import TimeUp

_SAVE_EVERY = 60.0  # seconds
_LAST = 8.0  # seconds that the last save takes


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu sprint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", default="", help="CIFAR-10: a folder or glob of parquet files, or its name on the hub")
    parser.add_argument("--minutes", type=float, default=9.0, help="of the whole command (9)")
    parser.add_argument("--earlier", type=Path, nargs="*", default=[], help="folders of earlier sprints")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--nets", nargs="+", choices=search.RATES, default=["fast", "resnet20"], help="which networks")
    known = [*STUDIES, FIELD]
    parser.add_argument(
        "--studies", nargs="+", choices=known, default=list(STUDIES), help="which, in this order (all of the paper's)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many (3)")
    parser.add_argument("--size", choices=["gpu", "cpu", "toy"], default="gpu", help="of networks and trainings (gpu)")
    parser.add_argument("--beside", type=int, help="trainings side by side (found by timing the first ones)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    args = parser.parse_args(argv)
    began = time.time()
    if args.device == "cuda":
        if not torch.cuda.is_available():
            print("error: torch sees no GPU; to see that a sprint runs, use --device cpu --size toy", file=sys.stderr)
            return 2
        torch.backends.cudnn.benchmark = True
    for earlier in args.earlier:
        if not list(earlier.rglob(archive.STAGES)):
            print(f"error: {earlier} has no {archive.STAGES}; give the folder of an earlier sprint", file=sys.stderr)
            return 2
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root, (args.out / archive.LOG).open("w") as log:
        try:
            return Sprint(args, Path(root), log, began).run()
        except TombolaError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2


class Sprint(Watcher):
    """One run of the command; watches its engine for the log."""

    def __init__(self, args: argparse.Namespace, root: Path, log: TextIO, began: float):
        self._args, self._log, self._began = args, log, began
        self.name = f"{datetime.now(UTC):%Y-%m-%d}-{uuid.uuid4().hex[:6]}"
        self._store = MemoryStore(root, self.name)
        archive.read(self._store, args.earlier)
        self._recipes: dict[str, Any] = {}
        for folder in args.earlier:
            for path in folder.rglob("sprint.json"):
                self._recipes |= json.loads(path.read_text())["recipes"]
        self._names: dict[str, str] = {}
        self._plans: list[Plan] = []
        self._saved = time.time()
        self._engine = LocalEngine(
            self._store,
            torch.device(args.device),
            self,
            ends=began + 60 * args.minutes - _LAST,
            beside=SideBySide(args.beside),
            brief=True,
        )

    def run(self) -> int:
        """Run what there is time for; return the exit code."""
        found = hardware()
        self.say(f"sprint {self.name} on {found.get('gpu', found['cpu'])}, torch {torch.__version__}")
        try:
            for seed in range(self._args.seeds):
                for net in self._args.nets:
                    self._search(net)
                    self._work(self._agenda().plan(net, seed, self._args.studies))
            self.say("everything is done")
        except TimeUp:
            self.say("the time is up")
        except KeyboardInterrupt:  # of the user, or SIGTERM
            self.say("stopped")
        self._save(last=True)
        return int(bool(self._engine.failures))

    def _agenda(self) -> Agenda:
        return Agenda(self._args.size, self._args.path, self._recipes, self._args.device)

    def _search(self, net: str) -> None:
        if net in self._recipes:
            return
        plan = search.plan(self._agenda(), net)
        self._work(plan)
        self._engine.failures.clear()  # a rate at which a network diverges is an answer; the log has it
        table = records.collect(plan, self._store)
        self.say(search.table(table))
        if (recipe := search.chosen(self._agenda(), net, table)) is None:
            raise TombolaError(f"the search of a recipe for {net} has failed stages; see {self._args.out / archive.LOG}")
        self._recipes[net] = recipe
        self.say(f"recipe of {net}: {json.dumps(recipe)}")

    def _work(self, plan: Plan) -> None:
        self._plans.append(plan)
        self._names = names_of(plan)
        todo = missing(plan, self._store)
        trainings = sum(isinstance(stage, Train) for stage in todo)
        self.say(f"{len(plan.rows)} rows, {len(todo)} stages to run, {trainings} of them trainings")
        if todo:
            self._engine.run(plan, self._save_if_due)

    def _save_if_due(self) -> None:
        if time.time() - self._saved >= _SAVE_EVERY:
            self._save()

    def _save(self, last: bool = False) -> None:
        out, began = self._args.out, time.time()
        whole = Plan("sprint", [row for plan in self._plans for row in plan.rows])
        archive.write(self._store, whole, out)
        table = records.collect(whole, self._store)
        table["sprint"] = [self._store.record(key)["run"]["sprint"] for key in table["key"]]
        records.write(table, out / "records.parquet")
        nets = " ".join(self._args.nets)
        about = {
            "sprint": self.name,
            "command": f"python -m benchmarks.gpu sprint --path FILES --minutes {self._args.minutes:g} --nets {nets}",
            "date": self.name[:10],
            "hardware": hardware(),
            "versions": versions(),
            "seconds": time.time() - self._began,
            "recipes": self._recipes,
            "failures": self._engine.failures,
            "own rows": int((table["sprint"] == self.name).sum()),
        }
        (out / "sprint.json").write_text(json.dumps(about, indent=1) + "\n")
        self._saved = time.time()
        self.say(f"saved {len(table)} rows, {about['own rows']} of this sprint, in {self._saved - began:.1f} s")
        if last:
            self.say(summary(table))

    def say(self, sentence: str) -> None:
        """Print a sentence with the seconds since the start, and write it to the log."""
        line = f"{time.time() - self._began:6.1f} s  {sentence}"
        print(line, flush=True)
        print(line, file=self._log, flush=True)

    def began(self, stage: Stage, progress: Progress) -> None:
        if isinstance(stage, Train):
            self.say(f"begins {progress.name}")

    def ended(self, stage: Stage) -> None:
        run = self._store.record(stage.key)
        if isinstance(stage, Train):
            self.say(f"{run['record']['train_seconds']:6.2f} s of training  {self._names[stage.key]}")
        elif isinstance(stage, Evaluate):
            accuracy = run["record"].get("accuracy", float("nan"))
            self.say(f"{run['run']['seconds']:6.2f} s, accuracy {accuracy:.4f}  {self._names[stage.key]}")

    def failed(self, stage: Stage, sentence: str) -> None:
        self.say(sentence)

    def said(self, sentence: str) -> None:
        self.say(sentence)


def summary(table: Any) -> str:
    """Return mean test accuracy by net, curve and level as text."""
    if not len(table):
        return "no rows"
    test = table[~table["data"].str.contains("validation")].drop_duplicates(["model", "curve", "key"])
    return test.pivot_table(index=["model", "curve"], columns="level", values="accuracy").round(4).to_string()


def collect(argv: Sequence[str] | None = None) -> int:
    """Put the records of several sprints together: python -m benchmarks.gpu collect FOLDER ... --out FOLDER."""
    import pandas as pd

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu collect", description=collect.__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of sprints")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    args = parser.parse_args(argv)
    paths = [path for folder in args.folders for path in sorted(folder.rglob("sprint.json"))]
    if not paths:
        print(f"error: no sprint.json in {', '.join(map(str, args.folders))}; give folders of sprints", file=sys.stderr)
        return 2
    tables = [pd.read_parquet(path.with_name("records.parquet")) for path in paths]
    table = pd.concat(tables, ignore_index=True).drop_duplicates(["study", "curve", "key"])
    args.out.mkdir(parents=True, exist_ok=True)
    records.write(table, args.out / "records.parquet")
    sprints = [json.loads(path.read_text()) for path in paths]
    (args.out / "sprints.json").write_text(json.dumps(sprints, indent=1) + "\n")
    for about in sprints:
        rows = int((table["sprint"] == about["sprint"]).sum())
        gpu = about["hardware"].get("gpu", about["hardware"]["cpu"])
        print(f"{about['sprint']}: {rows} rows of {about['seconds'] / 60:.1f} minutes on {gpu}")
    print(summary(table))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str] | None], int]] = {"sprint": main, "collect": collect}
