"""The commands that read: status, report, compare, claims, studies, evaluate. Each returns its exit code."""

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tombola import models
from tombola.data import load_data
from tombola.engine import records
from tombola.engine.folder import StudyFolder, told_apart
from tombola.errors import TombolaError
from tombola.pruning.ticket import load
from tombola.settings import EvaluateSettings, TrainSettings
from tombola.settings.keys import restored
from tombola.study.spec import read, shipped
from tombola.training.evaluate import evaluate_ticket

from .catalogue import costs, studies_table
from .run import choose_device
from .terminal import Follower, Picture, draw, graph_table

_WATCH_EVERY = 1.0  # seconds
_LINES_OF_STATUS = 40  # a status that is printed once may be longer than the terminal is high


def show_status(path: Path, watch: bool) -> int:
    """Print the stages and the state of a run. watch: again and again until nothing runs any more."""
    console, folder = Console(), StudyFolder.open(path)
    follower = Follower(folder.plan, folder.store, folder.timings)
    picture = follower.look()
    if not watch:
        console.print(graph_table(folder.plan, folder.store))
    elif follower.runs_now:
        _watch(console, follower, picture)
        follower = Follower(folder.plan, folder.store, folder.timings)  # the next run tries failed stages
        picture = follower.look()
    console.print(draw(replace(picture, failed=[]), console.width, max(console.height, _LINES_OF_STATUS)))
    for sentence in picture.failed:  # in full: nothing below has to stay in view
        console.print(Text(sentence, style="red"), soft_wrap=True)
    done, stages = picture.stages
    if not follower.runs_now and done < stages:
        console.print(f"nothing runs now: {stages - done} stages to run; the same `tombola run` command continues")
    elif done == stages:
        console.print(f"all {stages} stages are done, 0 to run")
    return 0


def _watch(console: Console, follower: Follower, picture: Picture) -> None:
    """Return when nothing runs any more, or at Ctrl-C, which does not stop the run."""

    def drawn() -> RenderableType:
        return draw(picture, console.width, console.height - 1)

    with suppress(KeyboardInterrupt), Live(drawn(), console=console, auto_refresh=False, transient=True) as live:
        while follower.runs_now:
            time.sleep(_WATCH_EVERY)
            picture = follower.look()
            live.update(drawn(), refresh=True)


def make_report(path: Path, out: Path | None, formats: str) -> int:
    """Write a study's page; formats: of its figures' files, with commas between them."""
    if out is not None:
        _check_page(out)
    kinds = _kinds(formats)
    print(f"report: {StudyFolder.open(path).write_report(out, formats=kinds)}")
    return 0


def compare_studies(first: Path, second: Path, out: Path, formats: str) -> int:
    """Write the page of two studies. Raises TombolaError for a folder without a study, and for nothing in common."""
    from tombola.report import write_comparison

    _check_page(out)
    kinds = _kinds(formats)
    if first.resolve() == second.resolve():
        raise TombolaError(f"{first} is given twice; give the folders of two studies")
    folders = [StudyFolder.open(first), StudyFolder.open(second)]
    one, two = (folder.side(label) for folder, label in zip(folders, told_apart(folders), strict=True))
    try:
        print(f"comparison: {write_comparison(one, two, out, formats=kinds)}")
    except OSError as error:
        raise TombolaError(f"cannot write {out}: {error.strerror}; choose another file with --out") from None
    return 0


def judge_claims(paths: list[Path], csv: Path | None, json: Path | None) -> int:
    """Print the claims' verdicts. Raises TombolaError for a folder without records, and where a file cannot be written."""
    from tombola.claims import judge
    from tombola.claims.paper import CLAIMS
    from tombola.claims.table import as_json, frame, printed

    rows = judge(records.read(paths), CLAIMS)
    Console().print(printed(rows))
    for out, text in ((csv, lambda: frame(rows).to_csv(index=False)), (json, lambda: as_json(rows))):
        if out is not None:
            try:
                out.write_text(text())
            except OSError as error:
                raise TombolaError(f"cannot write {out}: {error.strerror}; choose another file") from None
    return 0


def list_studies(name: str | None) -> int:
    """Print the shipped studies, or the YAML of one."""
    known = shipped()
    if name is not None:
        read(name, [])  # raises for an unknown name
        print(known.get(name, Path(name)).read_text(), end="")
        return 0
    Console().print(studies_table({study: read(study, []).get("description", "") for study in known}, costs()))
    return 0


def evaluate_file(path: Path, measure: EvaluateSettings, seed: int, device: str) -> int:
    """Print the metrics of a ticket. Raises TombolaError for a damaged or untrained one, and for lack of model or data."""
    ticket = load(path)
    model, data = ticket.info.get("model"), ticket.info.get("data")
    _ = ticket.posterior  # raises where there is no trained state
    if not model or not data:
        raise TombolaError(f"{path} does not name its model and data (it was saved from Python); use ticket.predict there")
    module = models.build(model["name"], model["args"], model["input_shape"], model["outputs"], ("skeleton",))
    ticket.layout.check(module)
    found = load_data(data["name"], data["args"])
    if found.fingerprint != data["fingerprint"]:
        raise TombolaError(
            f"data {found.name!r} has fingerprint {found.fingerprint}, the ticket was trained on {data['fingerprint']}: "
            "the data has changed since"
        )
    chosen = choose_device(device)
    train = restored(TrainSettings, ticket.info["settings"]["train"])
    words = ("evaluate", seed)
    examples = found.held_out(measure.split)
    row = evaluate_ticket(module.to(chosen), ticket, examples, measure, train, words, chosen, found.prepare)
    what = f"the {measure.split} split of {found.name} ({row['examples']} examples)"
    table = Table(title=f"{path.name}: {model['name']} on {what}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in row.items():
        if isinstance(value, int | float):
            table.add_row(name, f"{value:.6g}")
    Console().print(table)
    return 0


def _check_page(out: Path) -> None:
    if out.suffix != ".html":
        raise TombolaError(f"--out {out}: the report is an .html file; give such a name")


def _kinds(formats: str) -> list[str]:
    from tombola.report.images import FORMATS

    kinds = [kind.strip().lower() for kind in formats.split(",") if kind.strip()]
    if unknown := [kind for kind in kinds if kind not in FORMATS]:
        raise TombolaError(f"--formats {formats}: unknown format {unknown[0]!r}; choose from {', '.join(FORMATS)}")
    return kinds
