"""Stopping a training that cannot go on, with a sentence that names step and cause."""

from typing import Any

from torch import Tensor

from .inference import Batch, Learner
from .settings import TrainSettings


class TrainingError(RuntimeError):
    """A training that cannot go on: its loss is not finite or has run away."""


def check_losses(losses: Tensor, first_step: int, settings: TrainSettings, learner: Learner, batch: Batch) -> None:
    """Raises TrainingError if one of `losses`, of the steps from `first_step` on, is not finite or too large."""
    last = losses[-1].item()
    if last <= settings.divergence and (losses.device.type == "cpu" or bool((losses <= settings.divergence).all())):
        return  # on a CPU every step is looked at, so the earlier ones were good
    bad = next(i for i, loss in enumerate(losses.tolist()) if not loss <= settings.divergence)
    raise TrainingError(
        f"training stopped at step {first_step + bad}: the loss is {losses[bad].item():g}, {_cause(learner, batch)}; "
        f"lower train.lr ({settings.lr:g}) or set train.clip_norm"
    )


def _cause(learner: Learner, batch: Batch) -> str:
    inputs: Any = batch[0]
    if isinstance(inputs, Tensor) and not bool(inputs.isfinite().all()):
        return "for the inputs of its batch are not finite (clean the data)"
    if batch[1].is_floating_point() and not bool(batch[1].isfinite().all()):
        return "for the targets of its batch are not finite (clean the data)"
    for name, values in learner.state().posterior.tensors().items():
        finite = values.isfinite()
        if not bool(finite.all()):
            where = int((~finite).nonzero()[0])
            segment = next(s for s in learner.layout.segments if where < s.slice.stop)
            return f"and {name} of {segment.name!r} is not finite any more"
    if "log_std" in (tensors := learner.state().posterior.tensors()) and float(tensors["log_std"].max()) > 3:
        return f"with finite weights, but their largest std has grown to {float(tensors['log_std'].max().exp()):g}"
    return f"with finite weights, the largest of size {float(learner.state().posterior.mean.abs().max()):g}: it has run away"
