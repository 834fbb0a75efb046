"""Seconds of several things that are compared, taken in turn in one process."""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

_STRIDES = ((4.0, 1), (25.0, 5), (float("inf"), 15))
"""Up to so many times the fastest: in every so many-th round."""


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each call.

    Taken in turn, so that a change of the machine's pace falls on all; in an order drawn anew each round, so that none
    always follows the same other; each once before, untimed. What takes long is timed in fewer rounds, at least once.
    """
    gc.collect()
    gc.freeze()  # what is there already need not be looked through before each call
    first = {name: _seconds(call) for name, call in calls.items()}
    fastest = min(first.values())
    every = {name: next(stride for most, stride in _STRIDES if took <= most * fastest) for name, took in first.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats):
        due = [name for name in calls if round_ % every[name] == 0]
        random.Random(round_).shuffle(due)
        for name in due:
            times[name].append(_seconds(calls[name]))
    gc.unfreeze()
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(call: Callable[[], Any]) -> float:
    gc.collect()  # what another left in cycles is not collected on this one's time
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
