"""The process of a crew: it pulls stages from a study's folder until none is left or its time is up."""

import math
from collections.abc import Callable
from pathlib import Path

import torch

from tombola.errors import TombolaError
from tombola.training.checkpoint import TimeUp
from tombola.training.out_of_memory import keep_freed_memory

from . import TIME_UP
from .folder import StudyFolder
from .local import LocalEngine
from .progress import Watcher
from .together import Together


def _print(sentence: str) -> None:
    print(sentence, flush=True)


class Sayer(Watcher):
    """Watcher that passes warnings on: failures and counts are read from the store."""

    def __init__(self, say: Callable[[str], None]):
        self._say = say

    def said(self, sentence: str) -> None:
        self._say(sentence)


def pull(
    folder: Path,
    device: str,
    threads: int,
    ends: float = math.inf,
    say: Callable[[str], None] = _print,
    devices: int = 1,
) -> int:
    """Run the study's missing stages, divided with other processes by the store's locks. Return an exit code.

    ends: time, by `time.time`, after which it stops without loss; the code is then TIME_UP. devices: processes that make the
    steps of each training together, this one among them.
    """
    try:
        torch.set_num_threads(threads)
        keep_freed_memory()
        opened = StudyFolder.open(folder)
        engine = engine_for(opened, torch.device(device), say, ends)
        engine.together = Together(opened.place, engine.device, devices, say) if devices > 1 else None
        engine.run(opened.plan)
    except TombolaError as error:
        say(str(error))
        return 2
    except TimeUp:
        return TIME_UP
    except KeyboardInterrupt:
        return 130
    return 0


def engine_for(opened: StudyFolder, device: torch.device, say: Callable[[str], None], ends: float) -> LocalEngine:
    """Return the engine of one process of several: it does not retry the run's failed stages."""
    seconds = opened.variants[0].study.checkpoint_seconds
    return LocalEngine(opened.store, device, Sayer(say), seconds, joins=True, ends=ends)
