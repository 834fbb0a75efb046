"""One training loop for every method; it reads top to bottom.

Legend: P parameters, N training examples.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from tombola import streams
from tombola.data.batches import Batches, Prepare
from tombola.errors import TombolaError
from tombola.inference import Learner, method_of
from tombola.posterior.batch import (
    IGNORED,
    Batch,
    channels_last,
    examples_of,
    inputs_of,
    leaves,
    moved,
    parts,
    run,
    targets_of,
)
from tombola.posterior.batch_norm import normalising_one
from tombola.posterior.likelihood import Categorical, GaussianNoise, LogLikelihood, as_likelihood, load_learned
from tombola.posterior.modes import training_mode
from tombola.posterior.state import State
from tombola.settings import TrainSettings

from .checkpoint import Checkpoint
from .optim import Joined, load_optimiser_tensors, lr_factor, optimiser_of, optimiser_tensors, set_lr
from .out_of_memory import says_what_to_lower

VALIDATED_AT_ONCE = 1024
_LARGE_STD = 20.0
_LOOK_EVERY = 50  # steps between looks at the loss on a GPU, where each look waits for it


@dataclass(frozen=True)
class Trained:
    """Result of a training."""

    state: State
    history: list[dict[str, float]]
    """Rows, one an epoch: epoch (from 1), loss (nats per example, averaged over the epoch's steps, without KL), lr, and
    where validation data was given accuracy and nll of the posterior's mean weights, one pass."""
    seconds: float
    """Seconds of training, including the time before a resumed checkpoint."""


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
    validation: Batch | None = None,
    prepare: Prepare | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    on_state: Callable[[int, State], None] | None = None,
) -> Trained:
    """Train `state` of `module` on its device from step `start` of the schedule to `stop` (by default its end).

    stream: names this training's own noise and dropout streams. likelihood: (output, batch) -> log likelihood of each
        example [B], instead of the settings' one; a copy is trained.
    prepare: applied to the inputs of `validation`, part by part; `batches` yield theirs prepared.
    on_step, on_epoch, on_state: called with (steps done, steps to do), each new row of the history, and at an epoch's end
        (epochs done, a copy of the state); nothing depends on them.

    Raises TrainingError naming step and cause if the loss is not finite or above `settings.divergence`, and
    MemoryShortError (a TombolaError) naming the settings to lower if memory runs out.
    """
    device, per_epoch = state.posterior.mean.device, batches.steps
    total = settings.epochs * per_epoch
    stop = total if stop is None else min(stop, total)
    work = _Work.of(module, state, batches, settings, likelihood, stream)
    with streams.global_stream(*stream, device=device), work.learner.binding:
        step, spent = work.resume(checkpoint, device) or (start, 0.0)
        began = time.monotonic() - spent
        while step < stop:
            epoch = step // per_epoch
            first, last = max(start, epoch * per_epoch), min(stop, (epoch + 1) * per_epoch)
            module.train()
            # a loader that shuffles by torch's global randomness has the same order in a resumed run
            streams.reseed_global("order", *stream, epoch, device=device)
            for batch in islice(batches.epoch(epoch, step - epoch * per_epoch), last - step):
                streams.reseed_global("dropout", *stream, step, device=device)
                lr = settings.lr * lr_factor(settings, step, total, per_epoch)
                work.step(batch, step, lr, _kl_factor(settings, step, per_epoch), settings)
                step += 1
                losses = work.losses[first - epoch * per_epoch : step - epoch * per_epoch]
                if device.type == "cpu" or step % _LOOK_EVERY == 0 or step == last:
                    check_losses(losses, first, settings, work.learner, batch)
                if on_step:
                    on_step(step - start, stop - start)
                if step == last:
                    row = {"epoch": epoch + 1, "loss": losses.mean().item(), "lr": lr}
                    work.history.append(row | work.validated(module, validation, prepare, settings))
                    work.tell(on_epoch, on_state)
                if checkpoint and checkpoint.due and step < stop:
                    work.save(checkpoint, step, time.monotonic() - began, device)  # raises TimeUp if the time is over
        return Trained(work.learner.state(), work.history, time.monotonic() - began)


@dataclass
class _Work:
    """All that changes during a training, which is what a checkpoint holds."""

    learner: Learner
    likelihood: nn.Module
    optimiser: torch.optim.Optimizer | Joined
    losses: Tensor
    """Losses of the present epoch, by step."""
    history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        module: nn.Module,
        state: State,
        batches: Batches,
        settings: TrainSettings,
        likelihood: nn.Module | LogLikelihood | None,
        stream: streams.Name,
    ) -> "_Work":
        """Return all of a training at its beginning."""
        device = state.posterior.mean.device
        model = likelihood_of(settings, state, likelihood).to(device)
        learner = method_of(settings.method)(module, state, model, settings, batches.examples, stream)
        losses = torch.zeros(batches.steps, device=device)
        return cls(learner, model, optimiser_of(learner, model, settings), losses)

    def step(self, batch: Batch, step: int, lr: float, kl_factor: float, settings: TrainSettings) -> None:
        set_lr(self.optimiser, lr)
        for p in self.likelihood.parameters():
            p.grad = None
        laid_out = channels_last(batch) if settings.channels_last else batch
        with normalising_one(self.learner.binding.module, examples_of(batch)):
            loss = self.learner.gradients(laid_out, step, kl_factor)
        self.losses[step % len(self.losses)] = loss
        if settings.clip_norm is not None:
            everything = [p for group in self.optimiser.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(everything, settings.clip_norm)
        self.optimiser.step()

    def validated(
        self, module: nn.Module, validation: Batch | None, prepare: Prepare | None, settings: TrainSettings
    ) -> dict[str, float]:
        """Return the metrics of the posterior's mean weights; none without validation data."""
        if validation is None:
            return {}
        self.learner.show_mean()
        return validate(module, self.likelihood, validation, prepare, self.losses.device, settings.channels_last)

    def tell(
        self, on_epoch: Callable[[dict[str, float]], None] | None, on_state: Callable[[int, State], None] | None
    ) -> None:
        """Call the watchers of an epoch's end."""
        if on_epoch:
            on_epoch(self.history[-1])
        if on_state:
            on_state(int(self.history[-1]["epoch"]), self.learner.state())

    def save(self, checkpoint: Checkpoint, step: int, spent: float, device: torch.device) -> None:
        tensors = {f"state.{name}": value for name, value in self.learner.state().tensors().items()}
        tensors |= {f"optimiser.{name}": value for name, value in optimiser_tensors(self.optimiser).items()}
        description = {"step": step, "spent": spent, "history": self.history}
        checkpoint.save({**tensors, "losses": self.losses}, description, device)

    def resume(self, checkpoint: Checkpoint | None, device: torch.device) -> tuple[int, float] | None:
        """Restore the checkpoint and return its (step, seconds spent); None without one."""
        saved = checkpoint.load(device) if checkpoint else None
        if checkpoint is None or saved is None:
            return None
        tensors, description = saved
        parts: dict[str, dict[str, Tensor]] = {"state": {}, "optimiser": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = value.to(device)
        self.learner.restore(State.of_tensors(self.learner.layout, self.learner.mask, parts["state"]))
        self.losses.copy_(tensors["losses"])
        try:
            load_optimiser_tensors(self.optimiser, parts["optimiser"])
        except TombolaError as error:
            raise TombolaError(f"cannot resume from {checkpoint.path}: {error}") from None
        self.history[:] = description["history"]
        return description["step"], description["spent"]


def likelihood_of(settings: TrainSettings, state: State, given: nn.Module | LogLikelihood | None = None) -> nn.Module:
    """Return the likelihood of the settings, or a copy of the `given` one, with the tensors that `state` has learned."""
    likelihood: nn.Module
    if given is not None:
        likelihood = copy.deepcopy(as_likelihood(given)).train()
    elif settings.likelihood == "categorical":
        likelihood = Categorical(settings.label_smoothing)
    else:
        likelihood = GaussianNoise(settings.noise_std, settings.learn_noise)
    if state.likelihood:
        load_learned(likelihood, state.likelihood)
    return likelihood


def _kl_factor(settings: TrainSettings, step: int, steps_per_epoch: int) -> float:
    warmup = settings.kl_warmup_epochs * steps_per_epoch
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def validate(
    module: nn.Module,
    likelihood: nn.Module,
    validation: Batch,
    prepare: Prepare | None,
    device: torch.device,
    laid_out: bool = False,
) -> dict[str, float]:
    """Return nll and accuracy of one pass of the module as it is, with running batch-norm statistics.

    laid_out: whether images are laid out channels-last, as in the training.
    """
    examples = examples_of(validation)
    module.eval()
    likelihood.eval()
    # summed on the device: a look at each part would wait for it
    nll, right = torch.zeros((), dtype=torch.float64, device=device), torch.zeros((), dtype=torch.int64, device=device)
    counted = 0
    with torch.no_grad():
        for part in parts(validation, examples, VALIDATED_AT_ONCE):
            part = moved(part, device)
            if prepare:
                part = prepare(inputs_of(part)), targets_of(part)
            if laid_out:
                part = channels_last(part)
            output = run(module, inputs_of(part))
            nll -= likelihood(output, part).double().sum()
            hits = _hits(output, part, likelihood)
            right, counted = right + hits.sum().to(device), counted + hits.numel()
    likelihood.train()
    module.train()
    row = {"nll": nll.item() / examples}
    return row | ({"accuracy": right.item() / counted} if counted else {})


def _hits(output: Any, batch: Batch, likelihood: nn.Module) -> Tensor:
    """Return whether each label is the most likely one, bool [labels]; empty if targets are not classes of these logits."""
    none = torch.empty(0, dtype=torch.bool)
    try:
        logits, targets = (likelihood if isinstance(likelihood, Categorical) else Categorical()).compared(output, batch)
    except TombolaError:  # an output without logits, which only the caller's own likelihood can read
        return none
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.shape != logits.shape[:-1]:
        return none
    return (logits.argmax(-1) == targets)[targets != IGNORED]


class TrainingError(RuntimeError):
    """The error of a training that diverges: its loss is not finite or too large."""


def check_losses(losses: Tensor, first_step: int, settings: TrainSettings, learner: Learner, batch: Batch) -> None:
    """Raise TrainingError if one of `losses`, of the steps from `first_step` on, is not finite or too large."""
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
    q = learner.state().posterior
    for name, values in q.tensors().items():
        bad = (~values.isfinite()).nonzero()
        if len(bad):
            at = [int(i) for i, size in zip(bad[0], values.shape, strict=True) if size == q.layout.numel]
            segments = [s.name for s in q.layout.segments if at and at[0] in range(s.start, s.slice.stop)]
            return f"and {name}{f' of {segments[0]!r}' if segments else ''} is not finite any more"
    if q.std is not None and float(q.std.max()) > _LARGE_STD:
        return f"with finite weights, but their largest std has grown to {float(q.std.max()):g}"
    return f"with finite weights, the largest of size {float(q.mean.abs().max()):g}: it has run away"


def _all_finite(value: Any) -> bool:
    return all(bool(leaf.data.isfinite().all()) for leaf in leaves(value) if isinstance(leaf, Tensor | PackedSequence))
