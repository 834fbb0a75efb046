"""Divergence: a training whose loss is not finite or too large stops, with a sentence about the cause."""

from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from tombola.inference import Learner
from tombola.posterior.batch import Batch, inputs_of, leaves, targets_of
from tombola.posterior.families import Posterior
from tombola.posterior.state import State
from tombola.settings import TrainSettings

_LARGE_STD = 20.0


class TrainingError(RuntimeError):
    """The error of a training that diverges: its loss is not finite or too large."""


def check_losses(losses: Tensor, first_step: int, settings: TrainSettings, learner: Learner, batch: Batch | None) -> None:
    """Raise TrainingError if one of `losses`, of the steps from `first_step` on, is not finite or too large.

    batch: of the last step, if it is at hand.
    """
    last = losses[-1].item()
    if last <= settings.divergence and (losses.device.type == "cpu" or bool((losses <= settings.divergence).all())):
        return  # on a CPU every step is looked at, so the earlier ones were good
    bad = next(i for i, loss in enumerate(losses.tolist()) if not loss <= settings.divergence)
    raise TrainingError(
        f"training stopped at step {first_step + bad}: the loss is {losses[bad].item():g}, {_cause(learner, batch)}; "
        f"lower train.lr ({settings.lr:g}) or set train.clip_norm"
    )


def check_end(state: State, settings: TrainSettings) -> State:
    """Return the state in which a training ends. Raises TrainingError where its last update has made it infinite or NaN.

    No loss shows that, and the ticket could be saved but not be read.
    """
    if broken := _broken(state.posterior):
        raise TrainingError(
            f"training stopped after its last step: {broken}; lower train.lr ({settings.lr:g}) or set train.clip_norm"
        )
    return state


def _cause(learner: Learner, batch: Batch | None) -> str:
    read = () if batch is None else (("inputs", inputs_of(batch)), ("targets", targets_of(batch)))
    for what, value in read:
        if not _all_finite(value):
            return f"for the {what} of its batch are not finite (clean the data)"
    q = learner.state().posterior
    if broken := _broken(q):
        return f"and {broken}"
    if q.std is not None and float(q.std.max()) > _LARGE_STD:
        return f"with finite weights, but their largest std has grown to {float(q.std.max()):g}"
    return f"with finite weights, the largest of size {float(q.mean.abs().max()):g}: it has run away"


def _broken(q: Posterior) -> str:
    """Return in words the tensor of a posterior that is not finite, and its parameter; empty if all are finite."""
    for name, values in q.tensors().items():
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            at = [int(i) for i, size in zip(bad[0], values.shape, strict=True) if size == q.layout.numel]
            segments = [s.name for s in q.layout.segments if at and at[0] in range(s.start, s.slice.stop)]
            return f"{name}{f' of {segments[0]!r}' if segments else ''} is not finite any more"
    return ""


def _all_finite(value: Any) -> bool:
    return all(bool(leaf.data.isfinite().all()) for leaf in leaves(value) if isinstance(leaf, Tensor | PackedSequence))
