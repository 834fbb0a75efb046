"""Run studies one after another on one store; all are checked before the first one runs."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console

from tombola.claims import columns_of, judge
from tombola.claims.paper import CLAIMS, PAPER
from tombola.claims.table import printed
from tombola.data.placement import choose_device
from tombola.engine import TIME_UP, Crew
from tombola.engine.budget import Budget, calibrate, here
from tombola.engine.folder import StudyFolder
from tombola.engine.forecast import Forecast, Guesses
from tombola.engine.local import dataset
from tombola.engine.sigterm import Terminated
from tombola.engine.store import missing
from tombola.engine.tracking import makers_of
from tombola.engine.work import outline
from tombola.errors import TombolaError
from tombola.inference.graphs import check_device
from tombola.metrics import records
from tombola.study.plan import Plan
from tombola.study.spec import read, shipped
from tombola.study.stages import Stage, Train
from tombola.training.checkpoint import TimeUp
from tombola.training.out_of_memory import keep_freed_memory
from tombola.training.ranks import check_shared

from .app import INTERRUPTED, TERMINATED
from .conditions import Conditions
from .elsewhere import Elsewhere
from .terminal import ConsoleWatcher, Follower, Screen, duration, graph_table, print_results, print_settled, shown, until

STOPPED = {TIME_UP: "the time is up", INTERRUPTED: "interrupted", TERMINATED: "terminated"}
"""Exit code -> reason why a run ended before all was done."""
_CODES = {TimeUp: TIME_UP, Terminated: TERMINATED, KeyboardInterrupt: INTERRUPTED}  # the first that fits
_LOOK_AT_WORKERS = 0.1  # seconds
_RECORDS_EVERY = 60.0  # seconds between writes of the records of a running study


def run_studies(
    studies: Sequence[str],
    *,
    out: Path | None = None,
    changes: Sequence[str] = (),
    device: str = "auto",
    dry_run: bool = False,
    store: Path | None = None,
    jobs: int | None = None,
    minutes: float | None = None,
    quiet: bool = False,
    devices: int = 1,
    concurrent: int | None = None,
    elsewhere: Elsewhere | None = None,
    trackers: Sequence[str] = (),
) -> int:
    """Return the worst of the studies' exit codes: 0, 1 if a stage failed, 3 if the time is up, 130 if interrupted.

    studies: names of shipped ones, of folders of them, or paths. out: the folder of one study, the parent folder of several.
    devices: processes at each training. elsewhere: crew of a cluster; None: this machine. trackers: by name, sent what is
    finished. Raises TombolaError for a mistake in any of them before anything runs.
    """
    if concurrent is not None and (jobs or 1) > 1 and elsewhere is None:
        raise TombolaError(f"--concurrent {concurrent} is for one process; leave --jobs {jobs} out, or --concurrent")
    ends = math.inf if minutes is None else time.time() + 60 * minutes
    console = Screen(quiet=quiet, force_terminal=False if quiet else None)
    under = Conditions(
        console=console,
        device=choose_device("auto" if elsewhere else device),  # a cluster's devices are chosen on its nodes
        jobs=jobs,
        threads=torch.get_num_threads(),
        ends=ends,
        devices=devices,
        concurrent=concurrent,
        elsewhere=elsewhere,
        trackers=trackers,
    )
    makers_of(trackers)  # raises for an unknown one
    names = spread(studies)
    folders = _folders(names, out, changes, store)
    for folder in folders:
        _check_trainings(folder, under)
    return _foresee_all(names, folders, under) if dry_run else _run_all(names, folders, under)


def _check_trainings(folder: StudyFolder, under: Conditions) -> None:
    """Raise TombolaError for a training to come that cannot be made on this device, or by several processes."""
    if under.elsewhere and under.devices == 1:
        return
    trainings = [stage for stage in missing(folder.plan, folder.store) if isinstance(stage, Train)]
    if not under.elsewhere and any(stage.settings.cuda_graphs for stage in trainings):
        check_device(under.device)
    if under.device.type == "cuda" and under.devices > (there := torch.cuda.device_count()) and not under.elsewhere:
        raise TombolaError(f"--devices is {under.devices}, but there are {there} GPUs; give at most as many")
    for stage in trainings if under.devices > 1 else []:
        try:
            check_shared(stage.settings, stage.net.norm.exists, same_sample=True)
        except TombolaError as error:
            raise TombolaError(f"--devices {under.devices}: {error}") from None


def spread(names: Sequence[str]) -> list[str]:
    """Return the studies by name, each once; the name of a folder of shipped studies is replaced by all in it."""
    known = shipped()
    inside = {name: [study for study in known if study.startswith(f"{name.rstrip('/')}/")] for name in names}
    return list(dict.fromkeys(study for name in names for study in inside[name] or [name]))


def _folders(names: list[str], out: Path | None, changes: Sequence[str], store: Path | None) -> list[StudyFolder]:
    """Return the folder of each study, with its plan."""
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


def _foresee_all(names: list[str], folders: list[StudyFolder], under: Conditions) -> int:
    """Print each study's graph and forecast, and last the forecast of all together, in which shared stages count once."""
    guesses = Guesses()
    for number, folder in enumerate(folders, start=1):
        _say_which(under, number, names)
        guesses = _foresee(folder, under, guesses)
    if len(folders) > 1:
        plans, store = [folder.plan for folder in folders], folders[0].store
        plan = Plan("", [row for one in plans for row in one.rows], [analysis for one in plans for analysis in one.analyses])
        todo, forecast = missing(plan, store), Forecast(outline(plan, dataset), store)
        guesses.give(forecast, None)
        jobs = max(under.jobs_for(folder, forecast.left()) for folder in folders)
        words = f", {_in_words(forecast, jobs)}" if todo else ""
        under.say(f"all {len(folders)} studies together: {_counts(plan, todo)}{words}")
    return 0


def _run_all(names: list[str], folders: list[StudyFolder], under: Conditions) -> int:
    """Run the studies; after several, print the claims that have data, and the paths of records and pages."""
    several, worst, before, ran, console = len(folders) > 1, 0, Guesses(), False, under.console
    for folder in folders:
        folder.store.prepare()  # raises for a place that cannot be written to, before the first study runs
    for number, folder in enumerate(folders, start=1):
        _say_which(under, number, names)
        if folder.settled:
            folder.renew_outline()
            under.tracking(folder).close()
            print_settled(console, folder, alone=not several)
            continue
        if ran and time.time() >= under.ends:  # each command runs at least one study a step further, however short its time
            under.say(f"{STOPPED[TIME_UP]} before its first stage; the same command goes on from there")
            return TIME_UP
        code, ran = _run(folder, under, before), True
        if code in STOPPED:
            return code
        worst, before = max(worst, code), before.joined(Guesses.read(folder.timings))
    if several:
        _say_claims(folders, console)
        for name, folder in zip(names, folders, strict=True):
            under.say(f"{name}: {folder.path / 'records.parquet'}, {folder.path / 'report.html'}")
    return worst


def _say_which(under: Conditions, number: int, names: list[str]) -> None:
    if len(names) > 1:
        under.say(f"\n{names[number - 1]}, {number} of {len(names)} studies", style="bold")


def _say_claims(folders: list[StudyFolder], console: Console) -> None:
    """Print the verdicts over all records of the paper's studies, if any claim has data."""
    own = [folder.path for folder in folders if str(folder.raw["name"]).startswith(PAPER)]
    if not own:
        return
    table = records.read(own, columns_of(CLAIMS))
    rows = judge(table, CLAIMS) if len(table) else []
    if any(row.joint for row in rows):
        console.print(printed(rows))


def _forecasts(folder: StudyFolder, under: Conditions, before: Guesses) -> tuple[list[Stage], Budget, Forecast, Guesses]:
    """Return the stages to do, their needs of memory and time, and the times of steps: those of `before` and new ones."""
    under.set_threads(folder)
    todo = missing(folder.plan, folder.store)
    budget = Budget(todo, under.device, dataset)  # first: free memory is read before anything has run
    forecast = Forecast(folder.outline, folder.store, here(under.device))
    guesses = calibrate(forecast, todo, under.device, dataset, before.joined(Guesses.read(folder.timings)))
    return todo, budget, forecast, guesses


def _foresee(folder: StudyFolder, under: Conditions, before: Guesses) -> Guesses:
    """Print the graph and a forecast, and write nothing. Return the times of steps: those of `before` and new ones."""
    todo, budget, forecast, guesses = _forecasts(folder, under, before)
    under.console.print(graph_table(folder.outline, folder.store))
    under.say(_counts(folder.plan, todo))
    jobs = under.jobs_for(folder, forecast.left())
    if todo:
        under.say(_in_words(forecast, jobs))
    for sentence in budget.lines(todo, jobs):
        under.say(sentence)
    return guesses


def _counts(plan: Plan, todo: list[Stage]) -> str:
    return f"{len(plan.stages) - len(todo)} of {len(plan.stages)} stages done, {len(todo)} to run"


def _in_words(forecast: Forecast, jobs: int) -> str:
    """Return the forecast as a sentence."""
    seconds = forecast.left(processes=jobs)
    if seconds is None:
        return "no time forecast: the first steps of a training could not be timed; the run will say why"
    return f"about {duration(seconds)} to go, at the pace of a few steps and of the stages that are done"


def _run(folder: StudyFolder, under: Conditions, before: Guesses) -> int:
    """Return the exit code of a study's run. before: times of steps that were measured earlier, for the forecast."""
    console, plan = under.console, folder.plan
    todo = missing(plan, folder.store)
    to_run = f"{len(todo)} of {len(plan.stages)} stages to run"
    if again := sum(folder.store.done(stage.key) for stage in todo):
        to_run += f" ({again} of them again, because their tickets were removed)"
    folder.prepare()
    under.say(f"{plan.name}: {len(plan.rows)} tickets to evaluate, {to_run}, on {under.device}")
    with console.status("timing a few steps of each kind of training"):
        todo, budget, forecast, guesses = _forecasts(folder, under, before)
    guesses.write(folder.timings)
    jobs = under.jobs_for(folder, forecast.left())
    if (seconds := forecast.left(processes=jobs)) is not None and todo:
        by = f" by {jobs} processes" if jobs > 1 else ""
        console.print(f"{until(seconds, time.time())}{by}, at the pace of a few steps and of what is done")
    for sentence in budget.lines(todo, jobs):
        under.say(sentence)
    written, tracking = time.monotonic(), under.tracking(folder)

    def keep_records() -> None:
        nonlocal written
        tracking.look()
        if time.monotonic() - written > _RECORDS_EVERY:
            folder.write_records()
            written = time.monotonic()

    try:
        if jobs == 1 and not under.elsewhere:
            failed = _run_here(folder, under, budget, keep_records)
        else:
            failed = _run_by(under.crew(folder, jobs, budget), folder, under, keep_records)
    except (KeyboardInterrupt, TimeUp) as stopped:
        folder.write_records()
        tracking.close()
        code = next(code for kind, code in _CODES.items() if isinstance(stopped, kind))
        console.print(f"{STOPPED[code]}: what is finished is kept; the same command goes on from there")
        return code
    tracking.close()
    folder.write_report(failed=failed)
    print_results(console, folder, folder.write_records())
    for sentence in failed:
        under.say(f"failed: {sentence}", style="red", failure=True)
    return 1 if failed else 0


def _run_here(folder: StudyFolder, under: Conditions, budget: Budget, after_each: Callable[[], None]) -> list[str]:
    """Return a sentence for each failure."""
    keep_freed_memory()
    follower = Follower(folder.outline, folder.store, folder.timings)
    with shown(under.console, follower.look) as turn:
        engine = under.engine(folder, under, ConsoleWatcher(under.console, follower, turn), budget)
        engine.run(folder.plan, after_each)
    return [sentence for sentence in engine.failures.values() if sentence]


def _run_by(crew: Crew, folder: StudyFolder, under: Conditions, now_and_then: Callable[[], None]) -> list[str]:
    """Run as `_run_here` does, in other processes; stages that are left when all of them have died are a failure."""
    store, follower = folder.store, Follower(folder.outline, folder.store, folder.timings)
    store.forget_failures(stage.key for stage in missing(folder.plan, store))
    with shown(under.console, follower.look) as turn, crew:
        while crew.at_work():
            turn()
            now_and_then()
            time.sleep(_LOOK_AT_WORKERS)
    failed, left = follower.look().failed, missing(folder.plan, store)
    if left and crew.time_up:
        raise TimeUp
    if left and not failed:
        failed = [f"all processes have ended, but {len(left)} stages are left; the same command goes on"]
    return failed
