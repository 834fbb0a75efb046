"""Measurements before the first stage: the memory that each kind of stage needs, and the pace of each kind of training.

Both take a few small steps in memory, from the dense start, in streams of their own. Only sizes and times are kept.
"""

import itertools
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from statistics import median

import torch

from tombola.data import Dataset, training_batches
from tombola.data.batches import Batches
from tombola.data.placement import fits, free_memory
from tombola.files import in_words
from tombola.posterior.state import State, initial_state, layout_of
from tombola.settings import DataSettings
from tombola.settings.fields import priced
from tombola.study.graph import ancestors
from tombola.study.stages import Evaluate, Init, RunContext, Stage, Train
from tombola.training.checkpoint import arithmetic
from tombola.training.memory import Case, MemoryForecast, evaluation_needs, training_needs
from tombola.training.out_of_memory import what_to_lower

from .forecast import Forecast, Guesses
from .work import Data

_FORECASTS = 10.0  # seconds for all memory forecasts; kinds that are left then have none
STEPS, _SECONDS = 5, 3.0  # timed for each kind after its first step, unless the seconds end first
_PACES = 20.0  # seconds for all; kinds that are left then have no pace before their own steps

Kind = tuple[str, ...]


class Budget:
    """Memory forecasts of a plan's stages, one for each kind."""

    def __init__(self, stages: Iterable[Stage], device: torch.device, data: Data):
        """Take two small steps of each kind of training on the CPU; a kind that cannot be trained has no forecast."""
        self.device, self.free = device, free_memory(device)
        self._found: dict[Kind, MemoryForecast | None] = {}
        began = time.monotonic()
        for stage in stages:
            kind = _kind(stage)
            if kind and kind not in self._found and time.monotonic() - began < _FORECASTS:
                self._found[kind] = _forecast(stage, device, data)

    def of(self, stage: Stage) -> MemoryForecast | None:
        """Return the forecast of a training or an evaluation; None if it is not known."""
        return self._found.get(_kind(stage))

    def lines(self, stages: Iterable[Stage], jobs: int = 1) -> list[str]:
        """Return the sentences to print before these stages run: the largest forecast, and a warning if it is not free.

        jobs: processes, each with one stage at a time.
        """
        stages = list(stages)
        known = [(found, s) for s in stages if isinstance(s, Train | Evaluate) and (found := self.of(s)) is not None]
        if not known:
            return []
        largest, stage = max(known, key=lambda pair: pair[0].total)
        processes = min(jobs, len(stages))
        largest = largest.times(processes)
        whom = f" for {processes} processes" if processes > 1 else ""
        total, free = in_words(largest.total), in_words(self.free)
        said = [f"memory: about {total} of {free} free on {self.device}{whom} ({largest.inner})"]
        if largest.total > self.free:
            train, evaluate = (stage.train, stage.settings) if isinstance(stage, Evaluate) else (stage.settings, None)
            advice = what_to_lower(train, evaluate, largest)
            said.append(f"this may be more memory than there is; if it fails, {advice}")
        return said


def _kind(stage: Stage) -> Kind:
    """Return the stage's kind, of which all stages need the same memory; empty for a stage that needs next to none."""
    if isinstance(stage, Evaluate):
        point = stage.parents[0].settings.method if isinstance(stage.parents[0], Train) else ""
        return (stage.kind, stage.net.identity, str(stage.source.settings), str(stage.settings), point)
    if not isinstance(stage, Train):
        return ()
    return (stage.kind, stage.net.identity, str(stage.source.settings), str(_masked(stage)), *priced(stage.settings))


def _masked(stage: Train) -> bool:
    return not isinstance(stage.parents[0], Init)


def _forecast(stage: Stage, device: torch.device, data: Data) -> MemoryForecast | None:
    assert isinstance(stage, Train | Evaluate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shown when the stage runs
        try:
            there = data(stage.source.settings)
            case = _case(stage, there)
            if isinstance(stage, Evaluate):
                return evaluation_needs(case, stage.settings, stage.train, device, len(there.train[1]))
            size = min(stage.settings.batch_size, len(there.train[1]))
            needed = training_needs(case, stage.settings, size, masked=_masked(stage))
            return replace(needed, data=_placed(there, stage.source.settings, device))
        except (Exception, SystemExit):  # shown when the stage runs
            return None


def _case(stage: Train | Evaluate, data: Dataset) -> Case:
    whole: list[Stage] = ancestors(stage)
    first = whole[0]
    assert isinstance(first, Init)
    held_out = data.held_out(stage.settings.split if isinstance(stage, Evaluate) else stage.split)

    def start() -> tuple[torch.nn.Module, State]:
        module = first.net.build("skeleton")
        layout = layout_of(module, first.posterior, first.prune)
        return module, initial_state(module, layout, first.posterior, first.seed)

    def batches(examples: int) -> Batches:
        inputs, targets = (part[: 2 * examples] for part in data.train)
        few = replace(data, train=(inputs, targets), digest="known", streamed=None)
        return training_batches(few, replace(stage.source.settings, resident=True), examples, 0, torch.device("cpu"))

    given, examples = (data.train, data.validation, data.test), min(len(data.train[1]) // 2, len(held_out[1]))
    return Case(start, batches, given, examples, held_out, data.prepare)


def _placed(data: Dataset, settings: DataSettings, device: torch.device) -> float:
    """Return the bytes of the training data on a GPU; on a CPU they are in memory already, or stay in their file."""
    if device.type == "cpu" or data.streamed or not (fits(data, device) if settings.resident is None else settings.resident):
        return 0.0
    return float(sum(part.nbytes for part in data.train))


def calibrate(forecast: Forecast, stages: Iterable[Stage], device: torch.device, data: Data, before: Guesses) -> Guesses:
    """Time steps of each kind of training that has no pace yet, and give them to the forecast.

    stages: of the forecast's plan. A kind that cannot be trained gets no pace. before: earlier guesses, which are not timed
    again. Return them with the new ones.
    """
    where, began = here(device), time.monotonic()
    guesses = Guesses(where, dict(before.seconds) if before.where == where else {})
    guesses.give(forecast, where)
    by_key = {stage.key: stage for stage in stages}
    for kind, example in forecast.untimed().items():
        if time.monotonic() - began > _PACES:
            break
        stage = by_key[example.key]
        assert isinstance(stage, Train)
        if (seconds := step_seconds(stage, device, data)) is not None:
            guesses.seconds[kind] = forecast.guesses[kind] = seconds
    return guesses


def here(device: torch.device) -> tuple[str, int]:
    """Return the device's name and torch's threads, on which a pace depends beside the stage."""
    there = arithmetic(device)
    return there["device"], there["threads"]


def step_seconds(stage: Train, device: torch.device, data: Data) -> float | None:
    """Return the median seconds of a few steps after the first; None if the training has one step or fails."""
    marks: list[float] = []

    def on_step(done: int, total: int) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        marks.append(time.monotonic())
        if len(marks) > STEPS or (len(marks) > 1 and marks[-1] - marks[0] > _SECONDS):
            raise _Enough

    context = RunContext(device, data, on_step=on_step)
    with warnings.catch_warnings(), suppress(_Enough):
        warnings.simplefilter("ignore")  # shown when the stage runs
        try:
            whole: list[Stage] = ancestors(stage)
            start = whole[0].run([], context)
            assert start.ticket is not None
            stage.run([start.ticket], context)
        except (Exception, SystemExit):  # shown when the stage runs
            return None
    steps = [after - before for before, after in itertools.pairwise(marks)]
    return median(steps) if steps else None


class _Enough(BaseException):
    """End of a training that was begun only for its pace. It is no Exception, which a plug-in might catch."""
