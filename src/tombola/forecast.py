"""How long the rest of a plan will take, from the stages that were timed."""

from collections import defaultdict
from collections.abc import Callable

from .batches import steps_per_epoch
from .data import Dataset
from .plan import Plan
from .rewind import step_of
from .settings import DataSettings
from .stages import Stage, Train
from .store import Store


def work_of(stage: Stage, data: Callable[[DataSettings], Dataset]) -> int:
    """Training steps; 1 for any other stage."""
    if not isinstance(stage, Train):
        return 1
    per_epoch = steps_per_epoch(len(data(stage.source.settings).train[0]), stage.settings.batch_size)
    stop = step_of(stage.stop, per_epoch)
    return (stage.settings.epochs * per_epoch if stop is None else stop) - (step_of(stage.start, per_epoch) or 0)


def seconds_to_go(plan: Plan, todo: list[Stage], store: Store, data: Callable[[DataSettings], Dataset]) -> float | None:
    """The time `todo` will take, at the pace of this plan's finished stages of the same kind, model and method.

    None as long as there is something to train but no training was timed.
    """
    spent: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for stage in plan.stages:
        if store.done(stage.key):
            for kind in _kinds(stage):
                spent[kind][0] += store.record(stage.key)["run"]["seconds"]
                spent[kind][1] += work_of(stage, data)
    total = 0.0
    for stage in todo:
        timed = next((spent[kind] for kind in _kinds(stage) if kind in spent), None)
        if timed:
            total += timed[0] / max(1.0, timed[1]) * work_of(stage, data)
        elif isinstance(stage, Train):
            return None
    return total


def _kinds(stage: Stage) -> list[tuple[str, ...]]:
    """From the most alike to the least: what a stage's pace is taken from."""
    if isinstance(stage, Train):
        own = (stage.kind, stage.net.words, stage.settings.method, str(stage.settings.samples))
        return [own, (stage.kind, stage.net.words)]
    return [(stage.kind,)]
