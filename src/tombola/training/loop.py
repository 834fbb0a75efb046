"""One training loop for every method; it reads top to bottom.

Legend: P parameters, N training examples.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

from torch import nn

from tombola import streams
from tombola.data.batches import Batches, Prepare, TensorBatches
from tombola.errors import TombolaError
from tombola.posterior.attributes import attributes_kept
from tombola.posterior.batch import Batch
from tombola.posterior.likelihood import LogLikelihood
from tombola.posterior.modes import training_mode
from tombola.posterior.state import State
from tombola.settings import TrainSettings

from .checkpoint import Checkpoint
from .divergence import check_end, check_losses
from .out_of_memory import says_what_to_lower
from .ranks import Fabric, Ranks
from .sparse import Kept
from .steps import steps_of
from .work import Training, Work

_LOOK_EVERY = 50  # steps between looks at the loss on a GPU, where each look waits for it


@dataclass(frozen=True)
class Trained:
    """Result of a training."""

    state: State
    history: list[dict[str, float]]
    """Rows, one an epoch: epoch (from 1), loss (nats per example, averaged over the epoch's steps, without KL), lr, and
    where validation data was given accuracy and nll of the posterior's mean weights, one pass."""
    seconds: float
    """Seconds of training, including the time before a resumed checkpoint; of several side by side, its share of them."""
    kept: Kept | None = None
    """Averages over the steps of a mask that changed; None of one that did not."""


@says_what_to_lower
@training_mode
def train(
    module: nn.Module,
    state: State,
    batches: Batches,
    settings: TrainSettings,
    *,
    stream: streams.Name,
    start: int = 0,
    stop: int | None = None,
    likelihood: nn.Module | LogLikelihood | None = None,
    validation: Batch | list[Batch] | None = None,
    prepare: Prepare | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    on_state: Callable[[int, State], None] | None = None,
    fabric: Fabric | None = None,
    same_sample: bool = False,
) -> Trained:
    """Train `state` of `module` on its device from step `start` of the schedule to `stop` (by default its end).

    stream: names this training's own noise and dropout streams. likelihood: (output, batch) -> log likelihood of each
        example [B], instead of the settings' one; a copy is trained.
    prepare: applied to the inputs of `validation`, part by part; `batches` yield theirs prepared.
    on_step, on_epoch, on_state: called with (steps done, steps to do), each new row of the history, and at an epoch's end
        (epochs done, a copy of the state); nothing depends on them.
    fabric: a launched `lightning.Fabric` whose processes make each step together, from equal arguments: each takes a share
        of the batch and, unless `same_sample`, draws weights of its own. The first one writes the checkpoint.

    Raises TrainingError naming step and cause if the loss is not finite or above `settings.divergence`, and
    MemoryShortError (a TombolaError) naming the settings to lower if memory runs out.
    """
    training = Training(
        module=module,
        state=state,
        batches=batches,
        settings=settings,
        stream=stream,
        likelihood=likelihood,
        validation=validation,
        prepare=prepare,
        on_epoch=on_epoch,
        on_state=on_state,
        ranks=Ranks(fabric, same_sample) if fabric is not None and fabric.world_size > 1 else None,
    )
    return train_side_by_side([training], start=start, stop=stop, checkpoint=checkpoint, on_step=on_step)[0]


@training_mode
def train_side_by_side(
    trainings: Sequence[Training],
    *,
    start: int = 0,
    stop: int | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Trained]:
    """Train several networks at once, step by step, each as it would be trained alone; on a GPU they share its time.

    With `cuda_graphs` their steps are parallel branches of one graph: small networks together fill a GPU. Trainings may
    differ in everything but their numbers of steps. start, stop, checkpoint (of one training), on_step: as of `train`.

    Raises TombolaError for different numbers of steps, for loaders, and for a checkpoint of several.
    """
    first = trainings[0]
    device, per_epoch = first.state.posterior.mean.device, first.batches.steps
    _check_alike(trainings, checkpoint)
    stop = first.total if stop is None else min(stop, first.total)
    works = [Work.of(training) for training in trainings]
    with ExitStack() as bound:
        bound.enter_context(streams.global_stream(*first.stream, device=device))
        for work in works:
            bound.enter_context(attributes_kept(work.training.module))
            bound.enter_context(work.learner.binding)
        step, spent = works[0].resume(checkpoint, device) or (start, 0.0)
        began, steps = time.monotonic() - spent, steps_of(works)
        while step < stop:
            epoch = step // per_epoch
            earliest, last = max(start, epoch * per_epoch), min(stop, (epoch + 1) * per_epoch)
            for work in works:
                work.training.module.train()
            # a loader that shuffles by torch's global randomness has the same order in a resumed run
            streams.reseed_global("order", *first.stream, epoch, device=device)
            for given in islice(steps.epoch(epoch, step - epoch * per_epoch), last - step):
                step += 1
                done = slice(earliest - epoch * per_epoch, step - epoch * per_epoch)
                if device.type == "cpu" or step % _LOOK_EVERY == 0 or step == last:
                    for work, batch in zip(works, given, strict=True):
                        check_losses(work.losses[done], earliest, work.training.settings, work.learner, batch)
                if on_step:
                    on_step(step - start, stop - start)
                if step == last:
                    for work in works:
                        work.end_epoch(step, work.losses[done])
                if checkpoint and works[0].is_due(checkpoint) and step < stop:
                    works[0].save(checkpoint, step, time.monotonic() - began, device)  # raises TimeUp if the time is over
        if step == first.total:
            for work in works:
                work.learner.end(work.training.batches.epoch(0, 0))
        seconds = (time.monotonic() - began) / len(works)
        ends = [check_end(work.learner.state(), work.training.settings) for work in works]
        kept = [work.changing.summary if work.changing else None for work in works]
        return [Trained(end, work.history, seconds, k) for end, work, k in zip(ends, works, kept, strict=True)]


def _check_alike(trainings: Sequence[Training], checkpoint: Checkpoint | None) -> None:
    if len(trainings) == 1:
        return
    if len({(t.total, t.batches.steps, t.settings.cuda_graphs) for t in trainings}) > 1:
        steps = ", ".join(f"{t.settings.epochs} epochs of {t.batches.steps}" for t in trainings)
        raise TombolaError(
            f"trainings side by side need as many steps each, all with cuda_graphs or none; these are {steps}"
        )
    if checkpoint is not None:
        raise TombolaError("a checkpoint is of one training; train several side by side without one")
    if not all(isinstance(t.batches, TensorBatches) for t in trainings):
        raise TombolaError("trainings side by side need TensorBatches: loaders share torch's global randomness")
