"""Stopping a training that cannot go on, with a sentence that names step and cause."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .inference import Learner
from .posterior.batch import Batch, inputs_of, targets_of
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
    for what, value in (("inputs", inputs_of(batch)), ("targets", targets_of(batch))):
        if not _all_finite(value):
            return f"for the {what} of its batch are not finite (clean the data)"
    for name, values in learner.state().posterior.tensors().items():
        finite = values.isfinite()
        if not bool(finite.all()):
            where = int((~finite).nonzero()[0])
            segment = next(s for s in learner.layout.segments if where < s.slice.stop)
            return f"and {name} of {segment.name!r} is not finite any more"
    if "log_std" in (tensors := learner.state().posterior.tensors()) and float(tensors["log_std"].max()) > 3:
        return f"with finite weights, but their largest std has grown to {float(tensors['log_std'].max().exp()):g}"
    return f"with finite weights, the largest of size {float(learner.state().posterior.mean.abs().max()):g}: it has run away"


def _all_finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return bool(value.isfinite().all())
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    return all(map(_all_finite, inner))
