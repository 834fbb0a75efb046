"""SIGTERM: a run ends at its next checkpoint, its workers with the first process. Without torch: it may come at any time."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tombola.training.checkpoint import Checkpoint

_GRACE = 8  # seconds after SIGTERM for a step and its checkpoint: clusters mostly kill ten seconds or more after it


class Terminated(KeyboardInterrupt):
    """End of a run by SIGTERM, after a checkpoint if a training was running."""


class Ending(Protocol):
    """A run that can be ended."""

    ends: float
    """Time after which it stops at the next checkpoint or stage's end."""
    checkpoint: "Checkpoint | None"
    """Checkpoint of the training that runs; None outside one."""


@contextmanager
def ended_by_sigterm(run: Ending) -> Iterator[None]:
    """Raise Terminated on SIGTERM: in a training at its next checkpoint, which is then due, else at once."""
    from tombola.training.checkpoint import TimeUp

    main = threading.current_thread() is threading.main_thread()  # only the main thread may set a handler
    if not main or signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, _terminate):
        yield
        return

    def end(number: int, frame: object) -> None:
        if run.checkpoint is None or number == signal.SIGALRM:
            raise Terminated
        run.ends = run.checkpoint.ends = 0.0  # the training saves after its step and raises TimeUp
        signal.alarm(_GRACE)  # unless the step takes too long

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGALRM)}
    try:
        yield
    except TimeUp:
        if run.ends:
            raise
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
    if not run.ends:
        raise Terminated


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Raise Terminated on SIGTERM within the context, in any part of a command: it can end its workers and say so."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(*_: object) -> None:
    raise Terminated
