"""Running one study: what is said before, the stages in this process or in several, and what is written of them."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.text import Text

from tombola.engine.budget import Budget
from tombola.engine.calibrate import Guesses, calibrate, here
from tombola.engine.folder import StudyFolder
from tombola.engine.forecast import Forecast
from tombola.engine.local import Engine, dataset
from tombola.engine.store import missing
from tombola.engine.workers import TIME_UP, Workers, interrupted_by_sigterm
from tombola.errors import TombolaError
from tombola.inference.graphs import check_device
from tombola.study.stages import Stage, Train
from tombola.training.checkpoint import TimeUp
from tombola.training.out_of_memory import keep_freed_memory

from .terminal import Board, ConsoleWatcher, Follower, display_for, duration, graph_table, results_table, until

INTERRUPTED = 130
STOPPED = {TIME_UP: "the time is up", INTERRUPTED: "interrupted"}
"""Exit code -> why a run that was not done has ended."""
_LOOK_AT_WORKERS = 0.1  # seconds
_RECORDS_EVERY = 60.0  # seconds between writes of the records of a running study


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Where studies are run and how long: the same for all of one command."""

    console: Console
    device: torch.device
    jobs: int = 1
    threads: int = 1
    """Of torch, where the study names none: shared by the processes."""
    ends: float = math.inf
    """By `time.time`: when it is stopped at the next place where nothing is lost."""

    def set_threads(self, folder: StudyFolder) -> None:
        """What the study wants; said once for each, since several are run in one process."""
        wanted = folder.variants[0].study.threads or max(1, self.threads // self.jobs)
        if wanted != torch.get_num_threads():
            torch.set_num_threads(wanted)


def check(folder: StudyFolder, device: torch.device) -> None:
    """Raises TombolaError for whatever can be known to be wrong before anything runs."""
    if any(isinstance(stage, Train) and stage.settings.cuda_graphs for stage in missing(folder.plan, folder.store)):
        check_device(device)


def foresee(folder: StudyFolder, under: Conditions, before: Guesses) -> Guesses:
    """Prints the graph and a forecast, and writes nothing. Returns the times of steps, those of `before` with new ones."""
    under.set_threads(folder)
    console, plan, todo = under.console, folder.plan, missing(folder.plan, folder.store)
    forecast = Forecast(plan, folder.store, dataset, here(under.device))
    budget = Budget(todo, under.device, dataset)
    guesses = calibrate(forecast, under.device, dataset, before.joined(Guesses.read(folder.timings)))
    console.print(graph_table(plan, folder.store))
    console.print(f"{len(plan.stages) - len(todo)} of {len(plan.stages)} stages done, {len(todo)} to run")
    if todo:
        console.print(in_words(forecast, under.jobs))
    _say_memory(folder, budget, todo, under)
    return guesses


def in_words(forecast: Forecast, jobs: int) -> str:
    """How long what is to do will take."""
    seconds = forecast.left(processes=jobs)
    if seconds is None:
        return "no time forecast: the first steps of a training could not be timed; the run will say why"
    return f"about {duration(seconds)} to go, at the pace of a few steps and of the stages that are done"


def run(folder: StudyFolder, under: Conditions, before: Guesses) -> int:
    """0, 1 if a stage failed or was left, 3 if the time is up and 130 if interrupted (then the same command goes on).

    before: times of steps that were taken earlier, for the forecast.
    """
    under.set_threads(folder)
    console, plan, todo = under.console, folder.plan, missing(folder.plan, folder.store)
    forecast = Forecast(plan, folder.store, dataset, here(under.device))
    budget = Budget(todo, under.device, dataset)  # first: what is free is seen before anything was run
    folder.prepare()
    console.print(
        f"{plan.name}: {len(plan.rows)} tickets to evaluate, {len(todo)} of {len(plan.stages)} stages to run, "
        f"on {under.device}"
    )
    with console.status("timing a few steps of each kind of training"):
        known = before.joined(Guesses.read(folder.timings))
        calibrate(forecast, under.device, dataset, known).write(folder.timings)
    if (seconds := forecast.left(processes=under.jobs)) is not None and todo:
        console.print(f"{until(seconds, time.time())}, at the pace of a few steps and of what is done")
    _say_memory(folder, budget, todo, under)
    written = time.monotonic()

    def keep_records() -> None:
        nonlocal written
        if time.monotonic() - written > _RECORDS_EVERY:
            folder.write_records()
            written = time.monotonic()

    try:
        if under.jobs == 1:
            failed = _run_here(folder, under, forecast, budget, keep_records)
        else:
            failed = _run_in_workers(folder, under, keep_records)
    except (KeyboardInterrupt, TimeUp) as stopped:
        folder.write_records()
        code = TIME_UP if isinstance(stopped, TimeUp) else INTERRUPTED
        console.print(f"{STOPPED[code]}: what is finished is kept; the same command goes on from there")
        return code
    page = folder.write_report(failed=failed)
    table = folder.write_records()
    if len(table):
        console.print(results_table(table, console.width))
    console.print(f"records: {folder.path / 'records.parquet'}", soft_wrap=True)
    console.print(f"report:  {page}", soft_wrap=True)
    for sentence in failed:
        console.print(Text(f"failed: {sentence}", style="red"), soft_wrap=True)
    return 1 if failed else 0


def _run_here(
    folder: StudyFolder, under: Conditions, forecast: Forecast, budget: Budget, after_each: Callable[[], None]
) -> list[str]:
    """A sentence for each failure."""
    keep_freed_memory()
    with ConsoleWatcher(under.console, Board(folder.plan, folder.store, forecast)) as watcher:
        study = folder.variants[0].study
        engine = Engine(
            folder.store,
            under.device,
            watcher,
            study.checkpoint_seconds,
            study.together,
            needs=budget.of,
            ends=under.ends,
        )
        engine.run(folder.plan, after_each)
    return [sentence for sentence in engine.failures.values() if sentence]


def _run_in_workers(folder: StudyFolder, under: Conditions, now_and_then: Callable[[], None]) -> list[str]:
    """As `_run_here`; stages that are left because all workers have died are one more."""
    store, follower = folder.store, Follower(folder.plan, folder.store, folder.timings)
    store.forget_failures(stage.key for stage in missing(folder.plan, store))

    def say(sentence: str) -> None:
        under.console.print(Text(sentence), soft_wrap=True)

    with (
        interrupted_by_sigterm(),
        display_for(under.console, follower.look) as display,
        Workers(folder.path, under.device, under.jobs, torch.get_num_threads(), say, under.ends) as workers,
    ):
        while workers.at_work():
            display.turn()
            now_and_then()
            time.sleep(_LOOK_AT_WORKERS)
    failed, left = follower.look().failed, missing(folder.plan, store)
    if left and workers.time_up:
        raise TimeUp
    if left and not failed:
        failed = [f"all workers have ended, but {len(left)} stages are left; the same command goes on"]
    return failed


def choose_device(name: str) -> torch.device:
    """Raises TombolaError where a GPU is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TombolaError("--device cuda, but torch sees no GPU; use --device cpu or install a CUDA build of torch")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _say_memory(folder: StudyFolder, budget: Budget, todo: list[Stage], under: Conditions) -> None:
    for sentence in budget.lines(todo, under.jobs):
        under.console.print(Text(sentence), soft_wrap=True)
