"""The display of a run: a live picture in a terminal, a line now and then in other output."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from tombola.engine.progress import Progress

from .follow import Follower
from .picture import Picture, draw, until

if TYPE_CHECKING:
    from tombola.study.stages import Stage

_DRAWN_A_SECOND = 1.0  # more would flicker, and take time from the training
_SOON, _LATER = 10.0, 60.0  # seconds between lines, in the first minute and after it


@contextmanager
def shown(console: Console, look: Callable[[], Picture]) -> Iterator[Callable[[], None]]:
    """Show the pictures of `look` until the context ends. Yields a function to call often, which prints lines that are due.

    A terminal shows the picture, once a second below other output, and clears it at the end. Other output gets a line every
    ten seconds, after a minute every minute.
    """
    if console.is_terminal and not console.is_dumb_terminal:
        with Live(
            console=console,
            get_renderable=lambda: draw(look(), console.width, console.height - 1),
            refresh_per_second=_DRAWN_A_SECOND,
            transient=True,
            redirect_stderr=False,
        ):
            yield lambda: None
        return
    began = time.monotonic()
    due = began + _SOON

    def turn() -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due:
            due = now + (_SOON if now - began < _LATER else _LATER)
            console.print(Text(line_of(look())), soft_wrap=True)

    yield turn


def line_of(picture: Picture) -> str:
    """Return the picture in one line."""
    (done, stages), (steps_done, steps) = picture.stages, picture.steps
    line = f"{done} of {stages} stages done ({100 * steps_done / max(1, steps):.0f}% of the steps)"
    line += f", {until(picture.left, picture.now)}"
    for one in picture.running:
        part = f" ({100 * one.progress.done // one.progress.total}%)" if one.progress.total else ""
        line += f"; now {one.progress.name}{part}"
    return line


class ConsoleWatcher:
    """Watcher that prints the messages of this process's engine and passes its progress to the follower."""

    def __init__(self, console: Console, follower: Follower, turn: Callable[[], None]):
        self._console, self._follower, self._turn = console, follower, turn

    def began(self, stage: "Stage", progress: Progress) -> None:
        self._follower.own = progress

    def stepped(self, stage: "Stage", done: int, total: int) -> None:
        self._turn()

    def ended(self, stage: "Stage") -> None:
        self._turn()

    def failed(self, stage: "Stage", sentence: str) -> None:
        self._follower.failures[stage.key] = sentence
        self._console.print(Text(sentence, style="red"), soft_wrap=True)

    def said(self, sentence: str) -> None:
        self._console.print(Text(sentence), soft_wrap=True)
