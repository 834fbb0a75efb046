"""The picture of a study at one moment: running, finished and failed stages, the time left."""

import time
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tombola.engine.progress import Progress

_LEAST_HEIGHT = 8  # lines: the study, running stages, failures
_DONE = 6  # lines for finished stages

Lines = list[RenderableType]


@dataclass(frozen=True)
class Running:
    """A stage that a process runs, or ran when it stopped."""

    progress: Progress
    state: str = "running"
    """running, stopped or silent, as in `progress.Seen`."""
    epoch: tuple[int, int] | None = None
    """The current epoch, from 1, and their number; None for a stage without epochs."""
    left: float | None = None
    """Seconds to its end."""
    own: bool = False
    """True for a stage of this process, which is shown without process and host."""


@dataclass(frozen=True)
class Finished:
    """A stage that has ended."""

    name: str
    seconds: float
    result: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The facts that are drawn. Times are in seconds since 1970."""

    study: str
    stages: tuple[int, int]
    """Done stages, and all."""
    steps: tuple[float, float]
    """Done steps, and all: training steps; each other stage counts as one."""
    now: float
    since: float | None = None
    """Start of the run; None if nothing runs."""
    left: float | None = None
    running: list[Running] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    """Finished stages, the newest first."""
    failed: list[str] = field(default_factory=list)
    curves: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Label -> evaluated tickets, and all."""


def draw(picture: Picture, width: int, height: int) -> RenderableType:
    """Return the picture in at most `width` columns and `height` lines; with many failures it takes at least 8 lines."""
    title, words = _study(picture, width)
    room = max(_LEAST_HEIGHT, height) - 1 - len(words)
    running = [line for one in picture.running for line in _running(one, width, picture.now)]
    if len(running) > max(2, room - 1):
        running = running[: max(2, room - 2) // 2 * 2]
    room -= len(running)
    failed: Lines = [Text(sentence, style="red") for sentence in picture.failed]
    if len(failed) > room:
        failed = [*failed[: room - 1], Text(f"and {len(failed) - room + 1} more")]
    room -= len(failed)
    curves = _curves(picture.curves, width)
    finished = [_finished(one, width) for one in picture.finished[: max(0, min(_DONE, room - len(curves)))]]
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(width=7, style="dim")
    grid.add_column(no_wrap=True, ratio=1)
    states = [word for one in picture.running for word in (_STATES[one.state], "")]
    for line in words:
        grid.add_row("", line)
    for word, line in zip(states, running, strict=False):
        grid.add_row(word, line)
    for word, lines in (("done", finished), ("failed", failed), ("tickets", curves)):
        if word != "tickets" or len(curves) <= room - len(finished):
            for i, line in enumerate(lines):
                grid.add_row("" if i else word, line)
    return Group(title, grid)


_STATES = {"running": "now", "stopped": "stopped", "silent": "silent"}


def _study(picture: Picture, width: int) -> tuple[RenderableType, Lines]:
    """Return the line of the whole study, and the line of its time, if anything is known of it."""
    (done, stages), (steps_done, steps) = picture.stages, picture.steps
    part = steps_done / steps if steps else 1.0
    name = Text(_cut(picture.study, width // 3), style="bold")
    line = _row(name, ProgressBar(total=1.0, completed=part), Text(f"{_percent(part)}  {done}/{stages} stages"), fill=1)
    words = [] if picture.since is None else [f"running for {duration(picture.now - picture.since)}"]
    if done < stages and picture.left is not None and picture.since is None:
        words.append(f"about {duration(picture.left)} to go once it runs")
    elif done < stages:
        words.append(until(picture.left, picture.now))
    return line, [Text(" · ".join(words))] if words else []


def until(left: float | None, now: float) -> str:
    """Return the time left in words, with the time of day at which it ends."""
    if left is None:
        return "no forecast of the time left yet"
    end = time.localtime(now + left)
    if left < 90:
        return f"about {duration(left)} left"
    day = "" if left < 12 * 3600 else time.strftime("%a ", end) if left < 6 * 86400 else time.strftime("%d %b ", end)
    return f"about {duration(left)} left, until {day}{time.strftime('%H:%M', end)}"


def _running(one: Running, width: int, now: float) -> Lines:
    """Return two lines: the stage, and its progress."""
    progress, words = one.progress, []
    if one.epoch:
        words.append(f"epoch {one.epoch[0]}/{one.epoch[1]}")
    if one.state == "stopped":
        words.append("the same command goes on")
    elif progress.loss is not None:
        words.append(f"loss {progress.loss:.4g}")
    if one.state == "silent":
        words.append(f"no word for {duration(now - progress.updated)}")
    elif one.state == "running":
        pace = progress.steps_per_second
        words += [f"{pace:.3g} steps/s"] if pace else []
        words.append(f"{duration(now - progress.stage_since)} so far" if one.left is None else f"{duration(one.left)} left")
    style, bar_style = ("bold cyan", "bar.complete") if one.state == "running" else ("yellow", "yellow")
    where = "" if one.own else f"   pid {progress.pid} on {progress.host}"
    name = Text.assemble((_shortened(progress.name, max(20, width - 8 - len(where))), style), (where, "dim"))
    said = " · ".join(words)
    if not progress.total:
        return [name, Text(said)]
    part = progress.done / progress.total
    said = f"{_percent(part)}  {said}"
    bar_width = max(4, min(30, width - 10 - len(said)))
    return [name, _row(ProgressBar(total=1.0, completed=part, width=bar_width, complete_style=bar_style), Text(said))]


def _finished(one: Finished, width: int) -> RenderableType:
    took = f"{one.result}  {duration(one.seconds):>6}"
    room = max(0, width - 8 - len(took))
    return Text(_shortened(one.name, room - 1).ljust(room) + took, style="green")


def _curves(curves: dict[str, tuple[int, int]], width: int) -> Lines:
    """Return the evaluated tickets by curve, side by side as far as they fit."""
    if not curves:
        return []
    count = max(len(f"{done}/{total}") for done, total in curves.values())
    name = min(max(map(len, curves)), max(10, width - 8 - count - 3))
    cells = []
    for curve, (done, total) in curves.items():
        style = "green" if done == total else "" if done else "dim"
        cells.append(Text(f"{_cut(curve, name).ljust(name)} {f'{done}/{total}'.rjust(count)}   ", style=style))
    across = max(1, (width - 8) // (name + count + 4))
    return [Text.assemble(*cells[i : i + across]) for i in range(0, len(cells), across)]


def _row(*cells: RenderableType, fill: int | None = None) -> RenderableType:
    """Return the cells side by side; cell number `fill` takes the width that the others leave."""
    grid = Table.grid(padding=(0, 1), expand=fill is not None)
    for i, _ in enumerate(cells):
        grid.add_column(no_wrap=True, ratio=1 if i == fill else None)
    grid.add_row(*cells)
    return grid


def _percent(part: float) -> str:
    return f"{int(100 * min(1.0, part)):3d}%"  # rounded down: 100% is all of it


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: max(1, length - 1)] + "…"


def _shortened(name: str, length: int) -> str:
    """Return a stage's name cut in its longest part: mostly the curve's, rather than level and seed."""
    parts = name.split(" · ")
    longest = max(range(len(parts)), key=lambda i: len(parts[i]))
    parts[longest] = _cut(parts[longest], max(8, len(parts[longest]) - max(0, len(name) - length)))
    return _cut(" · ".join(parts), length)


def duration(seconds: float) -> str:
    """Return a time in words."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 or seconds < 0.05 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
