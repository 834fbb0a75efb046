"""Interleaved timing: calls are compared in turn in one process, by medians."""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Clock = Callable[[], float]
_STRIDES = ((4.0, 1), (25.0, 5), (float("inf"), 15))
"""(at most this many times as slow as the fastest call, timed in every n-th round)."""


def clock_of(threads: int) -> Clock:
    """Return the clock for calls in `threads` threads: in one the time of the processor, which others do not stretch."""
    return time.process_time if threads == 1 else time.perf_counter


def compared(
    calls: Mapping[str, Callable[[], Any]], repeats: int, plain: str, clock: Clock = time.perf_counter
) -> dict[str, Any]:
    """Return milliseconds of each call, and their ratio to the fastest of the calls whose label begins with `plain`."""
    medians = interleaved(calls, repeats, clock)
    fastest = min((label for label in medians if label.startswith(plain)), key=lambda label: medians[label])
    return {
        "fastest": fastest,
        "milliseconds": {label: 1e3 * seconds for label, seconds in medians.items()},
        "ratio": {label: seconds / medians[fastest] for label, seconds in medians.items()},
    }


def show(row: Mapping[str, Any]) -> None:
    """Print the ratios that `compared` has found, with the peak memory where it was measured."""
    print(f"{row['net']}, batch {row['batch']}, {row['threads']} thread(s): ", end="")
    print(f"{row['fastest']} {row['milliseconds'][row['fastest']]:.1f} ms")
    for label, ratio in row["ratio"].items():
        peak = row.get("peak_megabytes", {}).get(label)
        print(f"  {label:34s} {ratio:7.3f}" + (f"  {peak:7.0f} MB" if peak is not None else ""))


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int, clock: Clock = time.perf_counter) -> dict[str, float]:
    """Return the median seconds of each call by a clock.

    Each round takes the calls in turn, so that a change of the machine's pace falls on all, and in an order drawn anew, so
    that none always follows the same other; an untimed round comes first. Slow calls are timed in fewer rounds.
    """
    gc.collect()
    gc.freeze()  # objects that exist already need not be looked through before each call
    first = {name: _seconds(call, clock) for name, call in calls.items()}
    fastest = min(first.values())
    every = {name: next(stride for most, stride in _STRIDES if took <= most * fastest) for name, took in first.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats):
        due = [name for name in calls if round_ % every[name] == 0]
        random.Random(round_).shuffle(due)
        for name in due:
            times[name].append(_seconds(calls[name], clock))
    gc.unfreeze()
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(call: Callable[[], Any], clock: Clock) -> float:
    gc.collect()  # cycles that another call left are not collected on this call's time
    began = clock()
    call()
    return clock() - began
