"""A run as it goes on: a live picture in a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable
from copy import copy

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from tombola.engine.progress import Progress
from tombola.study.stages import Stage

from .board import Board
from .picture import Picture, draw, until

_DRAWN_A_SECOND = 1.0  # oftener is unrest, and takes time from the training
_SOON, _LATER = 10.0, 60.0  # seconds between lines, in the first minute and after it


class LiveDisplay:
    """The picture, drawn anew once a second below whatever is said; it is taken away at the end."""

    def __init__(self, console: Console, look: Callable[[], Picture]):
        self._console, self._look = console, look

    def __enter__(self) -> "LiveDisplay":
        self._live = Live(
            console=self._console,
            get_renderable=self._draw,
            refresh_per_second=_DRAWN_A_SECOND,
            transient=True,
            redirect_stderr=False,
        )
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def turn(self) -> None: ...

    def _draw(self) -> RenderableType:
        return draw(self._look(), self._console.width, self._console.height - 1)


class LineDisplay:
    """A line after ten seconds, then every ten, after a minute every minute, at the next `turn`."""

    def __init__(self, console: Console, look: Callable[[], Picture]):
        self._console, self._look = console, look

    def __enter__(self) -> "LineDisplay":
        self._due = self._began = time.monotonic()
        self._due += _SOON
        return self

    def __exit__(self, *_: object) -> None: ...

    def turn(self) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + (_SOON if now - self._began < _LATER else _LATER)
        picture = self._look()
        (done, stages), (steps_done, steps) = picture.stages, picture.steps
        line = f"{done} of {stages} stages done ({100 * steps_done / max(1, steps):.0f}% of the steps)"
        line += f", {until(picture.left, picture.now)}"
        for one in picture.running:
            part = f" ({100 * one.progress.done // one.progress.total}%)" if one.progress.total else ""
            line += f"; now {one.progress.name}{part}"
        self._console.print(Text(line), soft_wrap=True)


def display_for(console: Console, look: Callable[[], Picture]) -> LiveDisplay | LineDisplay:
    """Shows what `look` gives: live where the console is a terminal."""
    live = console.is_terminal and not console.is_dumb_terminal
    return LiveDisplay(console, look) if live else LineDisplay(console, look)


class ConsoleWatcher:
    """Tells the board how this process's engine gets on, and shows it with what other processes are at."""

    def __init__(self, console: Console, board: Board):
        self._console, self._board = console, board
        self._display = display_for(console, self._picture)
        self._progress: Progress | None = None
        self._since = time.time()

    def __enter__(self) -> "ConsoleWatcher":
        self._display.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._display.__exit__(*exception)

    def began(self, stage: Stage, progress: Progress) -> None:
        self._progress = progress

    def stepped(self, stage: Stage, done: int, total: int) -> None:
        self._display.turn()

    def ended(self, stage: Stage) -> None:
        self._progress = None
        self._board.ended(stage)
        self._display.turn()

    def failed(self, stage: Stage, sentence: str) -> None:
        self._progress = None
        self._board.fell_out(stage, sentence)
        self._console.print(Text(sentence, style="red"), soft_wrap=True)

    def said(self, sentence: str) -> None:
        self._console.print(Text(sentence), soft_wrap=True)

    def _picture(self) -> Picture:
        progress = copy(self._progress)  # the engine's thread changes it while this one draws
        known = progress is not None and progress.key in self._board.stages
        running = [self._board.running(progress, own=True)] if progress and known else []
        others = self._board.elsewhere()
        return self._board.picture([*running, *others], self._since, processes=1 + len(others))
