"""What the commands of the command line do."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from . import models, records
from .allocator import keep_freed_memory
from .budget import Budget
from .calibrate import Guesses, calibrate, here
from .data import load_data
from .engine import Engine, dataset, missing
from .errors import TombolaError
from .evaluation import evaluate_ticket
from .folder import StudyFolder, told_apart
from .forecast import Forecast
from .inference.graphs import check_device
from .settings import EvaluateSettings, TrainSettings
from .stages import Stage, Train
from .study import read, shipped
from .terminal import (
    Board,
    ConsoleWatcher,
    Follower,
    Picture,
    display_for,
    draw,
    duration,
    graph_table,
    results_table,
    until,
)
from .ticket import load
from .workers import Workers, interrupted_by_sigterm

_WATCH_EVERY = 1.0  # seconds
_LOOK_AT_WORKERS = 0.1  # seconds
_LINES_OF_STATUS = 40  # what is printed once may be longer than the terminal is high
_RECORDS_EVERY = 60.0  # seconds between writes of the records of a running study


def run_study(
    study: str, out: Path | None, changes: list[str], device: str, dry_run: bool, store: Path | None, jobs: int = 1
) -> int:
    """0, 1 if a stage failed or was left, 130 if interrupted (then the same command goes on)."""
    console, raw = Console(), read(study, changes)
    folder = StudyFolder.of(raw, out or Path("runs") / str(raw["name"]), store, Path(study).parent)
    settings, plan = folder.variants[0].study, folder.plan
    if settings.threads or jobs > 1:
        torch.set_num_threads(settings.threads or max(1, torch.get_num_threads() // jobs))
    chosen = choose_device(device)
    forecast = Forecast(plan, folder.store, dataset, here(chosen))
    todo = missing(plan, folder.store)
    if any(isinstance(stage, Train) and stage.settings.cuda_graphs for stage in todo):
        check_device(chosen)
    budget = Budget(todo, chosen, dataset)  # first: what is free is seen before anything was run
    if dry_run:
        calibrate(forecast, chosen, dataset, Guesses.read(folder.timings))
        console.print(graph_table(plan, folder.store))
        _say_rest(console, folder, forecast, jobs)
        _say_memory(console, budget, todo, jobs, settings.together)
        return 0
    folder.prepare()
    console.print(
        f"{plan.name}: {len(plan.rows)} tickets to evaluate, {len(todo)} of {len(plan.stages)} stages to run, on {chosen}"
    )
    with console.status("timing a few steps of each kind of training"):
        calibrate(forecast, chosen, dataset, Guesses.read(folder.timings)).write(folder.timings)
    if (seconds := forecast.left(processes=jobs)) is not None and todo:
        console.print(f"{until(seconds, time.time())}, at the pace of a few steps and of what is done")
    _say_memory(console, budget, todo, jobs, settings.together)
    written = time.monotonic()

    def keep_records() -> None:
        nonlocal written
        if time.monotonic() - written > _RECORDS_EVERY:
            folder.write_records()
            written = time.monotonic()

    try:
        if jobs == 1:
            failed = _run_here(folder, chosen, console, forecast, budget, keep_records)
        else:
            failed = _run_in_workers(folder, chosen, console, jobs, keep_records)
    except KeyboardInterrupt:
        folder.write_records()
        console.print("interrupted: what is finished is kept; the same command goes on from there")
        return 130
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
    folder: StudyFolder,
    device: torch.device,
    console: Console,
    forecast: Forecast,
    budget: Budget,
    after_each: Callable[[], None],
) -> list[str]:
    """A sentence for each failure."""
    keep_freed_memory()
    with ConsoleWatcher(console, Board(folder.plan, folder.store, forecast)) as watcher:
        study = folder.variants[0].study
        engine = Engine(folder.store, device, watcher, study.checkpoint_seconds, study.together, needs=budget.of)
        engine.run(folder.plan, after_each)
    return [sentence for sentence in engine.failures.values() if sentence]


def _run_in_workers(
    folder: StudyFolder, device: torch.device, console: Console, jobs: int, now_and_then: Callable[[], None]
) -> list[str]:
    """As `_run_here`; stages that are left because all workers have died are one more."""
    store, follower = folder.store, Follower(folder.plan, folder.store, folder.timings)
    store.forget_failures(stage.key for stage in missing(folder.plan, store))

    def say(sentence: str) -> None:
        console.print(Text(sentence), soft_wrap=True)

    with (
        interrupted_by_sigterm(),
        display_for(console, follower.look) as display,
        Workers(folder.path, device, jobs, torch.get_num_threads(), say) as workers,
    ):
        while workers.at_work():
            display.turn()
            now_and_then()
            time.sleep(_LOOK_AT_WORKERS)
    failed, left = follower.look().failed, missing(folder.plan, store)
    if left and not failed:
        failed = [f"all workers have ended, but {len(left)} stages are left; the same command goes on"]
    return failed


def show_status(path: Path, watch: bool) -> int:
    """Always 0. watch: again and again until nothing runs any more."""
    console, folder = Console(), StudyFolder.open(path)
    follower = Follower(folder.plan, folder.store, folder.timings)
    picture = follower.look()
    if not watch:
        console.print(graph_table(folder.plan, folder.store))
    elif follower.runs_now:
        _watch(console, follower, picture)
        follower = Follower(folder.plan, folder.store, folder.timings)  # what failed is to do again: the next run tries it
        picture = follower.look()
    console.print(draw(replace(picture, failed=[]), console.width, max(console.height, _LINES_OF_STATUS)))
    for sentence in picture.failed:  # in full: there is nothing below that has to stay in view
        console.print(Text(sentence, style="red"), soft_wrap=True)
    done, stages = picture.stages
    if not follower.runs_now and done < stages:
        console.print(f"nothing runs now: {stages - done} stages to run; `tombola run` goes on with the same command")
    elif done == stages:
        console.print(f"all {stages} stages are done, 0 to run")
    return 0


def _watch(console: Console, follower: Follower, picture: Picture) -> None:
    """Returns when nothing runs any more, or at Ctrl-C: the run is not stopped by it."""

    def drawn() -> RenderableType:
        return draw(picture, console.width, console.height - 1)

    with suppress(KeyboardInterrupt), Live(drawn(), console=console, auto_refresh=False, transient=True) as live:
        while follower.runs_now:
            time.sleep(_WATCH_EVERY)
            picture = follower.look()
            live.update(drawn(), refresh=True)


def make_report(path: Path, out: Path | None) -> int:
    """Always 0."""
    if out is not None:
        _check_page(out)
    print(f"report: {StudyFolder.open(path).write_report(out)}")
    return 0


def compare_studies(first: Path, second: Path, out: Path) -> int:
    """Always 0. Raises TombolaError for a folder that is no study, and for studies that have nothing in common."""
    from .report import write_comparison

    _check_page(out)
    if first.resolve() == second.resolve():
        raise TombolaError(f"{first} is given twice; give the folders of two studies")
    folders = [StudyFolder.open(first), StudyFolder.open(second)]
    one, two = (folder.side(label) for folder, label in zip(folders, told_apart(folders), strict=True))
    try:
        print(f"comparison: {write_comparison(one, two, out)}")
    except OSError as error:
        raise TombolaError(f"cannot write {out}: {error.strerror}; choose another file with --out") from None
    return 0


def judge_claims(paths: list[Path], csv: Path | None, json: Path | None) -> int:
    """Always 0. Raises TombolaError for a folder without records, and where a file cannot be written."""
    from .claims import judge
    from .claims.table import as_json, frame, printed

    rows = judge(records.read(paths))
    Console().print(printed(rows))
    for out, text in ((csv, lambda: frame(rows).to_csv(index=False)), (json, lambda: as_json(rows))):
        if out is not None:
            try:
                out.write_text(text())
            except OSError as error:
                raise TombolaError(f"cannot write {out}: {error.strerror}; choose another file") from None
    return 0


def list_studies(name: str | None) -> int:
    """Always 0."""
    known = shipped()
    if name is not None:
        read(name, [])  # says what is wrong with an unknown name
        print(known.get(name, Path(name)).read_text(), end="")
        return 0
    table = Table(title="shipped studies: tombola run NAME")
    for column in ("name", "what it asks"):
        table.add_column(column)
    for study in known:
        table.add_row(study, read(study, []).get("description", "").strip())
    Console().print(table)
    return 0


def evaluate_file(path: Path, measure: EvaluateSettings, seed: int, device: str) -> int:
    """Always 0. Raises TombolaError for a ticket that is damaged, untrained, or whose model or data can't be had."""
    ticket = load(path)
    model, data = ticket.info.get("model"), ticket.info.get("data")
    _ = ticket.posterior  # says so where there is no trained state
    if not model or not data:
        raise TombolaError(f"{path} does not name its model and data (it was saved from Python); use ticket.predict there")
    module = models.build(model["name"], model["args"], model["input_shape"], model["outputs"], ("skeleton",))
    ticket.layout.check(module)
    there = load_data(data["name"], data["args"])
    if there.fingerprint != data["fingerprint"]:
        raise TombolaError(
            f"data {there.name!r} has fingerprint {there.fingerprint}, the ticket was trained on {data['fingerprint']}: "
            "the data has changed since"
        )
    chosen = choose_device(device)
    train = TrainSettings(**ticket.info["settings"]["train"])
    words = ("evaluate", seed)
    examples = there.held_out(measure.split)
    row = evaluate_ticket(module.to(chosen), ticket, examples, measure, train, words, chosen, there.prepare)
    what = f"the {measure.split} split of {there.name} ({row['examples']} examples)"
    table = Table(title=f"{path.name}: {model['name']} on {what}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in row.items():
        if isinstance(value, int | float):
            table.add_row(name, f"{value:.6g}")
    Console().print(table)
    return 0


def choose_device(name: str) -> torch.device:
    """Raises TombolaError where a GPU is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TombolaError("--device cuda, but torch sees no GPU; use --device cpu or install a CUDA build of torch")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _check_page(out: Path) -> None:
    if out.suffix != ".html":
        raise TombolaError(f"--out {out}: the report is an .html file; give such a name")


def _say_memory(console: Console, budget: Budget, todo: list[Stage], jobs: int, together: int) -> None:
    for sentence in budget.lines(todo, jobs, together):
        console.print(Text(sentence), soft_wrap=True)


def _say_rest(console: Console, folder: StudyFolder, forecast: Forecast, jobs: int) -> None:
    todo, stages = missing(folder.plan, folder.store), folder.plan.stages
    console.print(f"{len(stages) - len(todo)} of {len(stages)} stages done, {len(todo)} to run")
    seconds = forecast.left(processes=jobs)
    if todo and seconds is None:
        console.print("no time forecast: the first steps of a training could not be timed; the run will say why")
    elif todo and seconds is not None:
        console.print(f"about {duration(seconds)} to go, at the pace of a few steps and of the stages that are done")
