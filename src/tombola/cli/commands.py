"""The commands that read: status, report, compare, studies. Each returns its exit code."""

import json
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from tombola.engine.clean import size_of
from tombola.engine.folder import StudyFolder, told_apart
from tombola.errors import TombolaError
from tombola.files import in_words
from tombola.study.spec import read, shipped

from .catalogue import SIZES, costs, first_sentence, studies_table
from .terminal import Follower, Picture, Screen, draw, graph_table

_WATCH_EVERY = 1.0  # seconds
_LINES_OF_STATUS = 40  # a status that is printed once may be longer than the terminal is high


def print_json(value: Any) -> None:
    """Print a value as JSON, with null for numbers that are not finite, which JSON lacks."""
    print(json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None), indent=1))


def show_status(path: Path, watch: bool, as_json: bool) -> int:
    """Print the stages and the state of a run. watch: again and again until nothing runs any more."""
    if watch and as_json:
        raise TombolaError("--watch draws a picture and --json prints once; leave one of them out")
    console, folder = Screen(), StudyFolder.open(path)
    follower = Follower(folder.outline, folder.store, folder.timings)
    picture = follower.look()
    stored = size_of([folder.store.root])
    if as_json:
        print_json(_as_data(picture) | {"store": str(folder.store.root), "store_bytes": stored})
        return 0
    if not watch:
        console.print(graph_table(folder.outline, folder.store))
    elif follower.runs_now:
        _watch(console, follower, picture)
        follower = Follower(folder.outline, folder.store, folder.timings)  # the next run tries failed stages
        picture = follower.look()
    console.print(draw(replace(picture, failed=[]), console.width, max(console.height, _LINES_OF_STATUS)))
    for sentence in picture.failed:  # in full: nothing below has to stay in view
        console.print(Text(sentence, style="red"), soft_wrap=True)
    done, stages = picture.stages
    if not follower.runs_now and done < stages:
        console.print(f"nothing runs now: {stages - done} stages to run; the same `tombola run` command continues")
    elif done == stages:
        console.print(f"all {stages} stages are done, 0 to run")
    console.print(Text(f"store: {in_words(stored)} in {folder.store.root}"), soft_wrap=True)
    return 0


def _as_data(picture: Picture) -> dict[str, Any]:
    """Return the state of a run as JSON has it."""
    running = [
        {
            "name": one.progress.name,
            "key": one.progress.key,
            "state": one.state,
            "pid": one.progress.pid,
            "host": one.progress.host,
            "step": one.progress.done,
            "steps": one.progress.total,
            "seconds_left": one.left,
        }
        for one in picture.running
    ]
    return {
        "study": picture.study,
        "stages_done": picture.stages[0],
        "stages": picture.stages[1],
        "share_of_steps": picture.steps[0] / max(1, picture.steps[1]),
        "seconds_left": picture.left,
        "running": running,
        "failed": picture.failed,
        "tickets": {curve: {"done": done, "all": count} for curve, (done, count) in picture.curves.items()},
    }


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


def list_studies(name: str | None, as_json: bool) -> int:
    """Print the shipped studies, or one: as YAML, or its settings as JSON."""
    known = shipped()
    if name is not None:
        settings = read(name, [])  # raises for an unknown name
        if as_json:
            print_json(settings)
        else:
            print(known.get(name, Path(name)).read_text(), end="")
        return 0
    if as_json:
        print_json([_about(study, path) for study, path in known.items()])
        return 0
    Screen().print(studies_table({study: read(study, []).get("description", "") for study in known}, costs()))
    return 0


def _about(study: str, path: Path) -> dict[str, Any]:
    """Return a shipped study's name, file, question and costs in seconds by size."""
    known = costs()
    by_size = {size: cost for size in SIZES if (cost := known.get(size, {}).get("studies", {}).get(study))}
    return {
        "name": study,
        "path": str(path),
        "asks": first_sentence(read(study, []).get("description", "")),
        "costs": by_size,
    }


def _check_page(out: Path) -> None:
    if out.suffix != ".html":
        raise TombolaError(f"--out {out}: the report is an .html file; give such a name")


def _kinds(formats: str) -> list[str]:
    from tombola.report.images import FORMATS

    kinds = [kind.strip().lower() for kind in formats.split(",") if kind.strip()]
    if unknown := [kind for kind in kinds if kind not in FORMATS]:
        raise TombolaError(f"--formats {formats}: unknown format {unknown[0]!r}; choose from {', '.join(FORMATS)}")
    return kinds
