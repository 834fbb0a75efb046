"""Number of trainings that go side by side on a GPU: given, or found by timing the first ones."""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field

from tombola.study.stages import Train

_FIRST, _POWERS = 4, (1, 2, 4, 8)  # the first was best on an H200


@dataclass
class SideBySide:
    """A number of trainings, or where it is None the fastest power of 2 for each kind of training.

    It is found by climbing: the first trainings, which have to be made anyway, are timed.
    """

    given: int | None
    _begun: set[Hashable] = field(default_factory=set)
    _seconds: dict[Hashable, dict[int, float]] = field(default_factory=dict)

    def count(self, kind: Hashable) -> int:
        """Return how many trainings of that kind to run next."""
        if self.given is not None:
            return self.given
        if not (known := self._seconds.get(kind)):
            return _FIRST
        if not any(math.isfinite(seconds) for seconds in known.values()):
            return max(1, min(known) // 2)
        best = min(known, key=lambda count: known[count])
        untried = [count for count in (2 * best, best // 2) if count in _POWERS and count not in known]
        return untried[0] if untried else best

    def took(self, kind: Hashable, count: int, seconds: float) -> None:
        """Note the seconds a training that `count` trainings side by side took; not of the first ones, which compile."""
        if kind not in self._begun:
            self._begun.add(kind)
            return
        known = self._seconds.setdefault(kind, {})
        known[count] = min(seconds, known.get(count, seconds))

    def were_too_many(self, kind: Hashable, count: int) -> None:
        """Note that `count` trainings cannot go side by side, nor more of them."""
        known = self._seconds.setdefault(kind, {})
        known.update((power, math.inf) for power in _POWERS if power >= count)


def kind_of(stage: Train) -> tuple[Hashable, ...]:
    """Return what decides how many trainings like this one are fastest side by side."""
    return stage.net.identity, stage.settings.samples, *stage.pace
