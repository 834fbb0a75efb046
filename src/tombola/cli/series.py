"""Running several studies, one after another on one store: all are checked before the first one runs."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text

from tombola.claims import judge
from tombola.claims.paper import CLAIMS
from tombola.claims.table import printed
from tombola.engine import records
from tombola.engine.calibrate import Guesses
from tombola.engine.folder import StudyFolder
from tombola.engine.forecast import Forecast
from tombola.engine.local import dataset
from tombola.engine.store import missing
from tombola.engine.workers import TIME_UP
from tombola.errors import TombolaError
from tombola.study.plan import Plan
from tombola.study.spec import read, shipped

from .run import STOPPED, Conditions, check, choose_device, foresee, in_words, run


def run_studies(
    studies: Sequence[str],
    *,
    out: Path | None = None,
    changes: Sequence[str] = (),
    device: str = "auto",
    dry_run: bool = False,
    store: Path | None = None,
    jobs: int = 1,
    minutes: float | None = None,
) -> int:
    """The worst of the studies' exit codes: 0, 1 if a stage failed, 3 if the time is up, 130 if interrupted.

    studies: names of shipped ones, of folders of them, or paths. out: of one study its folder, of several the folder of
    theirs. Raises TombolaError for a mistake in any of them before anything was run.
    """
    if minutes is not None and not minutes > 0:
        raise TombolaError(f"--minutes is {minutes:g}; give a number above 0, as --minutes 9.5")
    ends = math.inf if minutes is None else time.time() + 60 * minutes
    under = Conditions(
        console=Console(), device=choose_device(device), jobs=jobs, threads=torch.get_num_threads(), ends=ends
    )
    names = spread(studies)
    folders = _folders(names, out, changes, store)
    for folder in folders:
        check(folder, under.device)
    if dry_run:
        _foresee(names, folders, under)
        return 0
    if len(folders) == 1:
        return run(folders[0], under, Guesses())
    for folder in folders:
        folder.store.prepare()  # what cannot be written to is said now, too
    return _run(names, folders, under)


def spread(names: Sequence[str]) -> list[str]:
    """The studies that the names stand for, each once: the name of a folder of shipped ones stands for all in it."""
    known = shipped()
    inside = {name: [study for study in known if study.startswith(f"{name.rstrip('/')}/")] for name in names}
    return list(dict.fromkeys(study for name in names for study in inside[name] or [name]))


def _folders(names: list[str], out: Path | None, changes: Sequence[str], store: Path | None) -> list[StudyFolder]:
    """Of each study, with its plan."""
    found: dict[str, StudyFolder] = {}
    several = len(names) > 1
    for name in names:
        raw = read(name, list(changes))
        called = str(raw["name"])
        if called in found:
            raise TombolaError(f"{name} is called {called!r} like another of these studies; give one of them another name")
        path = (out or Path("runs")) / called if several or not out else out
        found[called] = StudyFolder.of(raw, path, store, Path(name).parent)
        try:
            _ = found[called].plan
        except TombolaError as error:
            raise TombolaError(f"{name}: {error}" if several else str(error)) from None
    return list(found.values())


def _foresee(names: list[str], folders: list[StudyFolder], under: Conditions) -> None:
    guesses, several = Guesses(), len(names) > 1
    for number, folder in enumerate(folders, start=1):
        if several:
            _say_which(under, number, names)
        guesses = foresee(folder, under, guesses)
    if several:
        _foresee_all(folders, under, guesses)


def _foresee_all(folders: list[StudyFolder], under: Conditions, guesses: Guesses) -> None:
    """The forecast of all studies together: what several of them need counts once."""
    plans, store = [folder.plan for folder in folders], folders[0].store
    plan = Plan("", [row for one in plans for row in one.rows], [view for one in plans for view in one.views])
    todo, stages = missing(plan, store), plan.stages
    forecast = Forecast(plan, store, dataset)
    guesses.give(forecast, None)
    words = f", {in_words(forecast, under.jobs)}" if todo else ""
    done = f"{len(stages) - len(todo)} of {len(stages)} stages done, {len(todo)} to run"
    under.console.print(f"all {len(folders)} studies together: {done}{words}", soft_wrap=True)


def _run(names: list[str], folders: list[StudyFolder], under: Conditions) -> int:
    """Ends with the claims that they have data for, and with where things are."""
    console, worst, before, ran = under.console, 0, Guesses(), False
    for number, folder in enumerate(folders, start=1):
        _say_which(under, number, names)
        if folder.settled:
            console.print(f"all {len(folder.plan.stages)} stages are done, and the page was written of them")
            continue
        if ran and time.time() >= under.ends:  # a command with nothing run gets somewhere, however short its time
            console.print(f"{STOPPED[TIME_UP]} before its first stage; the same command goes on from there")
            return TIME_UP
        code, ran = run(folder, under, before), True
        if code in STOPPED:
            return code
        worst, before = max(worst, code), before.joined(Guesses.read(folder.timings))
    _say_claims(folders, console)
    for name, folder in zip(names, folders, strict=True):
        console.print(Text(f"{name}: {folder.path / 'records.parquet'}, {folder.path / 'report.html'}"), soft_wrap=True)
    return worst


def _say_which(under: Conditions, number: int, names: list[str]) -> None:
    under.console.print(Text(f"\n{names[number - 1]}, {number} of {len(names)} studies", style="bold"), soft_wrap=True)


def _say_claims(folders: list[StudyFolder], console: Console) -> None:
    """The verdicts over all records, where there is data for any."""
    table = records.read([folder.path for folder in folders])
    rows = judge(table, CLAIMS) if len(table) else []
    if any(row.joint for row in rows):
        console.print(printed(rows))
