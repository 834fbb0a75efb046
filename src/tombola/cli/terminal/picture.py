"""A study at one moment, and how it is drawn: what runs, what has just ended, what failed, the time left."""

import time
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tombola.engine.progress import Progress

_LEAST_HEIGHT = 8  # lines: the study, what runs, what failed


@dataclass(frozen=True)
class Running:
    """A stage that a process is at, or was when it stopped."""

    progress: Progress
    state: str = "running"
    """running, stopped or silent, as in `progress.Seen`."""
    epoch: tuple[int, int] | None = None
    """The one it is in, from 1, of all; None where the stage has none."""
    left: float | None = None
    """Seconds."""
    own: bool = False
    """Whether it runs in this process, so that nobody needs to be told where."""


@dataclass(frozen=True)
class Finished:
    """A stage that has ended."""

    name: str
    seconds: float
    result: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """All that is drawn. Times are in seconds since 1970."""

    study: str
    stages: tuple[int, int]
    """Done, of all."""
    steps: tuple[float, float]
    """Done, of all: training steps, other stages as one."""
    now: float
    since: float | None = None
    """Start of the run; None where nothing runs."""
    left: float | None = None
    running: list[Running] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    """The newest first."""
    failed: list[str] = field(default_factory=list)
    curves: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Label -> tickets evaluated, of all."""


def draw(picture: Picture, width: int, height: int) -> RenderableType:
    """The picture in at most `width` columns and `height` lines; the least of it takes 8 lines where much failed."""
    room = max(_LEAST_HEIGHT, height)
    parts: list[list[RenderableType]] = [_whole(picture, width)]
    room -= len(parts[0])
    running = [line for one in picture.running for line in _running(one, width, picture.now)]
    if len(running) > max(2, room - 1):
        running = running[: max(2, room - 2) // 2 * 2]
    room -= len(running)
    failed = _listed("failed", [Text(_cut(name, width - 8), style="red") for name in picture.failed], room)
    room -= len(failed)
    curves = _curves(picture.curves, width)
    finished = _listed("done", [_finished(one, width) for one in picture.finished], max(0, min(6, room - len(curves))))
    room -= len(finished)
    return Group(*parts[0], *running, *finished, *failed, *(curves if len(curves) <= room else []))


def _whole(picture: Picture, width: int) -> list[RenderableType]:
    (done, stages), (steps_done, steps) = picture.stages, picture.steps
    part = steps_done / steps if steps else 1.0
    said = f"{_percent(part)}  {done}/{stages} stages"
    title = _cut(picture.study, width // 3)
    bar = ProgressBar(total=1.0, completed=part, width=max(4, width - len(title) - len(said) - 4))
    words = [] if picture.since is None else [f"running for {duration(picture.now - picture.since)}"]
    if done < stages:
        words.append(until(picture.left, picture.now) if picture.since or picture.left is None else _to_go(picture.left))
    lines: list[RenderableType] = [_row(Text(title, style="bold"), bar, Text(said))]
    return [*lines, _line("", Text(" · ".join(words)))] if words else lines


def _to_go(seconds: float) -> str:
    return f"about {duration(seconds)} to go once it runs"


def until(left: float | None, now: float) -> str:
    """The time left, and when that is."""
    if left is None:
        return "no forecast of the time left yet"
    end = time.localtime(now + left)
    if left < 90:
        return f"about {duration(left)} left"
    day = "" if left < 12 * 3600 else time.strftime("%a ", end) if left < 6 * 86400 else time.strftime("%d %b ", end)
    return f"about {duration(left)} left, until {day}{time.strftime('%H:%M', end)}"


def _running(one: Running, width: int, now: float) -> list[RenderableType]:
    """Two lines: which stage, how far it is."""
    progress, words = one.progress, []
    part = progress.done / progress.total if progress.total else None
    if one.epoch:
        words.append(f"epoch {one.epoch[0]}/{one.epoch[1]}")
    if progress.loss is not None:
        words.append(f"loss {progress.loss:.4g}")
    if one.state == "stopped":
        words = [*words[:1], "the same command goes on"]
    elif one.state == "silent":
        words.append(f"no word for {duration(now - progress.updated)}")
    else:
        pace = progress.steps_per_second
        words += [f"{pace:.3g} steps/s"] if pace else []
        words.append(f"{duration(now - progress.stage_since)} so far" if one.left is None else f"{duration(one.left)} left")
    said = " · ".join(words)
    if part is not None:
        said = f"{_percent(part)}  {said}"
    bar = ProgressBar(
        total=1.0,
        completed=part or 0.0,
        width=max(4, min(30, width - 7 - len(said) - 3)),
        complete_style="yellow" if one.state != "running" else "bar.complete",
    )
    state = {"running": "now", "stopped": "stopped", "silent": "silent"}[one.state]
    style = "bold cyan" if one.state == "running" else "yellow"
    where = "" if one.own else f"   pid {progress.pid} on {progress.host}"
    name = Text.assemble((_shortened(progress.name, max(20, width - 8 - len(where))), style), (where, "dim"))
    return [_line(state, name), _row(Text(" " * 7), bar, Text(said)) if part is not None else _line("", Text(said))]


def _finished(one: Finished, width: int) -> RenderableType:
    took = f"{one.result}  {duration(one.seconds):>6}"
    return Text(_shortened(one.name, width - 8 - len(took) - 1).ljust(max(0, width - 8 - len(took))) + took, style="green")


def _listed(word: str, lines: list[RenderableType], room: int) -> list[RenderableType]:
    """As many as there is room for; the last of them then says how many there are more."""
    room = max(0, room)
    if len(lines) > room and word == "done":
        lines = lines[:room]
    elif len(lines) > room:
        lines = [*lines[: max(0, room - 1)], Text(f"and {len(lines) - max(0, room - 1)} more")]
    return [_line(word if i == 0 else "", line) for i, line in enumerate(lines)]


def _curves(curves: dict[str, tuple[int, int]], width: int) -> list[RenderableType]:
    """Tickets evaluated by curve, as many beside each other as fit."""
    if not curves:
        return []
    count = max(len(f"{done}/{total}") for done, total in curves.values())
    name = min(max(map(len, curves)), max(10, width - 8 - count - 3))
    cells = []
    for curve, (done, total) in curves.items():
        style = "green" if done == total else "" if done else "dim"
        cells.append(Text(f"{_cut(curve, name).ljust(name)} {f'{done}/{total}'.rjust(count)}   ", style=style))
    across = max(1, (width - 8) // (name + count + 4))
    rows = [Text.assemble(*cells[i : i + across]) for i in range(0, len(cells), across)]
    return [_line("tickets" if i == 0 else "", row) for i, row in enumerate(rows)]


def _row(*cells: RenderableType) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    for _ in cells:
        grid.add_column(no_wrap=True)
    grid.add_row(*cells)
    return grid


def _line(word: str, said: RenderableType) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=7, no_wrap=True, style="dim")
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_row(word, said)
    return grid


def _percent(part: float) -> str:
    return f"{int(100 * min(1.0, part)):3d}%"  # rounded down: 100% is all of it


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: max(1, length - 1)] + "…"


def _shortened(name: str, length: int) -> str:
    """A stage's name, at the cost of its longest part: mostly the curve's, rather than level and seed."""
    parts = name.split(" · ")
    longest = max(range(len(parts)), key=lambda i: len(parts[i]))
    parts[longest] = _cut(parts[longest], max(8, len(parts[longest]) - max(0, len(name) - length)))
    return _cut(" · ".join(parts), length)


def duration(seconds: float) -> str:
    """A time in words."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 or seconds < 0.05 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
