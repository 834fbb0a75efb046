"""Sentences about the errors of stages."""

from tombola.errors import MemoryShortError, is_out_of_memory
from tombola.study.stages import Evaluate, Stage, Train
from tombola.training.memory import MemoryForecast
from tombola.training.out_of_memory import short_of_memory


def cause_of(stage: Stage, error: Exception | SystemExit, needs: MemoryForecast | None) -> str:
    """Return a sentence about the error; for an out-of-memory error, what to lower."""
    if not is_out_of_memory(error) or not isinstance(stage, Train | Evaluate):
        return f"{type(error).__name__}: {error}"
    first = error.__cause__ if isinstance(error, MemoryShortError) and error.__cause__ else error
    train, measure = (stage.settings, None) if isinstance(stage, Train) else (stage.train, stage.settings)
    return str(short_of_memory(first, train, measure, needs))


def first_line(error: BaseException) -> str:
    """Return the error's kind and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
