"""How long trainings will take, from those that have ended: seconds a step of each kind, and what comes on top of each."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable

from tombola.data import Dataset
from tombola.engine.forecast import work_of
from tombola.study.stages import Stage, Train

Kind = tuple[str, ...]


class Pace:
    """Learns from each stage that ends."""

    def __init__(self, data: Dataset, clock: Callable[[], float] = time.monotonic):
        self._data, self._clock, self._last = data, clock, clock()
        self._spent: defaultdict[Kind, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
        self._beside, self._trained = 0.0, 0

    def learn(self, stage: Train, seconds: float) -> bool:
        """A training took so long, whenever that was. Whether it is the first one of its kind."""
        own, wider = _kinds(stage)
        is_first = own not in self._spent
        for kind in (own, wider):
            before, steps = self._spent[kind]
            self._spent[kind] = before + seconds, steps + self._steps(stage)
        return is_first

    def ended(self, stage: Stage, seconds: float) -> None:
        """A stage has ended that ran since the last one: what is not training (measuring, files) is shared by trainings."""
        now = self._clock()
        is_training = isinstance(stage, Train)
        self._beside += now - self._last - (seconds if is_training else 0.0)
        self._trained += is_training
        self._last = now

    def minutes(self, trainings: Iterable[Train]) -> float | None:
        """None as long as one of them is of a net of which none was trained."""
        total = 0.0
        for stage in trainings:
            kind = next((kind for kind in _kinds(stage) if kind in self._spent), None)
            if kind is None:
                return None
            spent, steps = self._spent[kind]
            total += spent / steps * self._steps(stage) + self._beside / max(1, self._trained)
        return total / 60

    def _steps(self, stage: Train) -> int:
        return work_of(stage, lambda _: self._data)


def _kinds(stage: Train) -> tuple[Kind, Kind]:
    settings = stage.settings
    return (stage.net.words, settings.method, f"{settings.samples} {settings.objective}"), (stage.net.words,)
