"""Work of the stages of a plan, for its outline.

Work is counted in training steps. A forward pass counts as a third of a step, whose forward pass and backward passes to
weights and to activations are three products of about one size. This prices the measurement at an epoch's end, and
evaluations until one was timed.
"""

from collections.abc import Callable, Iterator

from tombola.data import Dataset
from tombola.data.batches import steps_per_epoch
from tombola.inference import is_deterministic
from tombola.pruning.rewind import step_of
from tombola.settings import DataSettings, TrainSettings
from tombola.settings.fields import priced
from tombola.study.plan import Plan, names_of, training_of
from tombola.study.stages import Measurement, Stage, Train

from .outline import Compared, Kind, Outline, OutlineAnalysis, OutlineRow, OutlineStage, Work

Data = Callable[[DataSettings], Dataset]


def outline(plan: Plan, data: Data) -> Outline:
    """Return the outline of a plan."""
    names, known = names_of(plan), dict[Work, Work]()
    stages: dict[str, OutlineStage] = {}
    for stage in plan.stages:
        work, parents = _work(stage, data), tuple(stages[parent.key] for parent in stage.parents)
        stages[stage.key] = OutlineStage(stage.key, stage.kind, names[stage.key], known.setdefault(work, work), parents)
    rows = [OutlineRow(row.labels, stages[row.stage.key]) for row in plan.rows]
    analyses = [
        OutlineAnalysis(row.labels, stages[row.stage.key], tuple(Compared(one.labels) for one in row.of))
        for row in plan.analyses
    ]
    return Outline(plan.name, list(stages.values()), rows, analyses)


def work_of(stage: Stage, data: Data) -> int:
    """Return the stage's training steps; 1 for a stage that does not train."""
    if (trained := training_of(stage)) is None:
        return 1
    per_epoch = epoch_steps(trained, data)
    stop = step_of(trained.stop, per_epoch)
    return (trained.settings.epochs * per_epoch if stop is None else stop) - (step_of(trained.start, per_epoch) or 0)


def epoch_steps(stage: Train, data: Data) -> int:
    """Return the steps of an epoch."""
    return steps_per_epoch(data(stage.source.settings).examples, stage.settings.batch_size)


def _work(stage: Stage, data: Data) -> Work:
    kinds = tuple(_kinds(stage))
    if (trained := training_of(stage)) is not None:
        steps, per_epoch, passes = work_of(stage, data), epoch_steps(trained, data), _passes(trained, data)
        first = step_of(trained.start, per_epoch) or 0
        units = steps + steps / per_epoch * passes
        return Work(units, kinds, steps, per_epoch, first, trained.settings.epochs, passes)
    return Work(stage.work(_passes(stage, data)) if isinstance(stage, Measurement) else 1.0, kinds)


def _passes(stage: Train | Measurement, data: Data) -> float:
    """Return the cost of a forward pass over the held-out examples, in training steps."""
    settings = stage.settings if isinstance(stage, Train) else stage.train
    samples = 1 if is_deterministic(settings.method) else settings.samples
    split = stage.split if isinstance(stage, Train) else stage.settings.split
    held_out = data(stage.source.settings).held_out(split)
    return len(held_out[1]) / (3 * settings.batch_size * samples)


def _kinds(stage: Stage) -> list[Kind]:
    """Return the kinds from which a stage's pace is taken, the most alike first."""
    if isinstance(stage, Train):
        return list(_training_kinds(stage.net.identity, stage.settings))
    own: Kind
    if isinstance(stage, Measurement):
        net, train = stage.net.identity, stage.train
        own = ("random" if stage.is_random else "point", *priced(stage.settings))
    elif (trained := training_of(stage)) is not None:
        net, train, own = trained.net.identity, trained.settings, (trained.settings.method,)
    else:
        return [(stage.kind,)]
    return [(stage.kind, net, *own), *_training_kinds(net, train)]


def _training_kinds(net: str, settings: TrainSettings) -> Iterator[Kind]:
    yield (Train.kind, net, *priced(settings))
    yield (Train.kind, net, f"batch_size={settings.batch_size}", settings.method)
    yield (Train.kind, net, f"batch_size={settings.batch_size}")
