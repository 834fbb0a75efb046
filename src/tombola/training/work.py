"""One training at work: its learner, its optimiser, and what it has done so far."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tombola import streams
from tombola.data.batches import Batches, Prepare
from tombola.errors import TombolaError
from tombola.inference import VI, Learner, Map, method_of
from tombola.posterior.arrays import validation_batches
from tombola.posterior.batch import Batch, channels_last, examples_of
from tombola.posterior.batch_norm import has_batch_norm, has_own, normalising_one
from tombola.posterior.likelihood import (
    Bernoulli,
    Categorical,
    GaussianNoise,
    LogLikelihood,
    Poisson,
    as_likelihood,
    check_foreign,
    load_learned,
)
from tombola.posterior.state import State
from tombola.settings import TrainSettings

from .checkpoint import Checkpoint
from .optim import Joined, load_optimiser_tensors, lr_factor, optimiser_of, optimiser_tensors, set_lr
from .ranks import Ranks, check_shared
from .reference import reference_of
from .sparse import ChangingMask
from .trial import trial
from .validate import validate


@dataclass(frozen=True, kw_only=True)
class Training:
    """Arguments of one training, as `train` explains them."""

    module: nn.Module
    state: State
    batches: Batches
    settings: TrainSettings
    stream: streams.Name
    likelihood: nn.Module | LogLikelihood | None = None
    validation: Batch | list[Batch] | None = None
    prepare: Prepare | None = None
    on_epoch: Callable[[dict[str, float]], None] | None = None
    on_state: Callable[[int, State], None] | None = None
    ranks: Ranks | None = None
    """This process among several; None: the training is of one."""

    @property
    def noise(self) -> streams.Name:
        """Return the stream of the weight samples of this process."""
        return self.stream if self.ranks is None or self.ranks.same_sample else self.ranks.own(self.stream)

    @property
    def dropout(self) -> streams.Name:
        """Return the stream of this process's noise for each example."""
        return self.ranks.own(self.stream) if self.ranks else self.stream

    @property
    def total(self) -> int:
        """Return the number of steps of the whole schedule."""
        return self.settings.epochs * self.batches.steps

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, from 0."""
        return self.settings.lr * lr_factor(self.settings, step, self.total, self.batches.steps)

    def kl_factor(self, step: int) -> float:
        """Return the factor of the KL term at a step, from 0."""
        warmup = self.settings.kl_warmup_epochs * self.batches.steps
        return min(1.0, (step + 1) / warmup) if warmup else 1.0


@dataclass
class Work:
    """All that changes during a training, which is what a checkpoint holds."""

    training: Training
    learner: Learner
    likelihood: nn.Module
    optimiser: torch.optim.Optimizer | Joined
    losses: Tensor
    """Losses of the present epoch, by step."""
    reference: list[Any]
    """Batches of training inputs by whose batch-norm statistics the mean weights are validated; empty for running ones."""
    validation: list[Batch]
    """Batches of held-out examples."""
    history: list[dict[str, float]] = field(default_factory=list)
    due: bool = False
    """True where the checkpoint is due, as the first rank says after each step."""
    changing: ChangingMask | None = None
    """The mask, where it changes."""

    @classmethod
    def of(cls, training: Training) -> "Work":
        """Return all of a training at its beginning."""
        t, device = training, training.state.posterior.mean.device
        validation = validation_batches(t.validation)
        measures = bool(validation) and has_own(t.module, t.state.posterior)
        if isinstance(t.likelihood, nn.Module):
            check_foreign(t.likelihood, t.module)
        model = likelihood_of(t.settings, t.state, t.likelihood).to(device)
        trial(t.module, t.state, model, t.batches, validation, t.prepare)
        learner = method_of(t.settings.method)(t.module, t.state, model, t.settings, t.batches.examples, t.noise)
        if t.ranks:
            check_shared(t.settings, has_batch_norm(t.module), t.ranks.same_sample)
        learner.begin(t.total)
        losses = torch.zeros(t.batches.steps, device=device)
        reference = reference_of(t.batches) if measures else []
        changing = None
        if t.settings.mask:
            assert isinstance(learner, VI | Map)
            changing = ChangingMask(learner, t.settings.mask, t.state, t.total, t.stream)
        optimiser = optimiser_of(learner, model, t.settings)
        return cls(t, learner, model, optimiser, losses, reference, validation, changing=changing)

    def step(self, batch: Batch, step: int) -> None:
        """Make a step: gradients, then the optimiser's update."""
        set_lr(self.optimiser, self.training.rate(step))
        self.losses[step % len(self.losses)] = self.update(batch, step, self.training.kl_factor(step))
        if self.changing:
            t = self.training
            if t.ranks:  # all grow the same weights, so they drop the same inputs
                streams.reseed_global("dropout", *t.stream, "mask", step, device=self.losses.device)
            laid_out = channels_last(batch) if t.settings.channels_last else batch
            self.changing.after(step, laid_out, self.optimiser)

    def update(self, batch: Batch, step: int, kl_factor: float | Tensor) -> Tensor:
        """Make a step at the learning rate that the optimiser has; return the loss."""
        settings = self.training.settings
        for p in self.likelihood.parameters():
            p.grad = None
        laid_out = channels_last(batch) if settings.channels_last else batch
        with normalising_one(self.learner.binding.module, examples_of(batch)):
            if (ranks := self.training.ranks) is None:
                loss = self.learner.gradients(laid_out, step, kl_factor)
            else:
                loss, self.due = ranks.gradients(self.learner, self.optimiser, laid_out, step, kl_factor, self.due)
        if settings.clip_norm is not None:
            everything = [p for group in self.optimiser.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(everything, settings.clip_norm)
        self.optimiser.step()
        return loss

    def end_epoch(self, step: int, losses: Tensor) -> None:
        """Add the row of the epoch that ends with `step` steps done, and tell the watchers."""
        t, epoch = self.training, (step - 1) // self.training.batches.steps
        row = {"epoch": epoch + 1, "loss": losses.mean().item(), "lr": t.rate(step - 1)}
        if t.ranks:
            t.ranks.check_equal(self.learner.state().posterior)
        if self.validation:
            self.learner.show_mean()
            device, laid_out = self.losses.device, t.settings.channels_last
            row |= validate(t.module, self.likelihood, self.validation, t.prepare, device, laid_out, self.reference)
        self.history.append(row)
        if t.on_epoch:
            t.on_epoch(row)
        if t.on_state:
            t.on_state(epoch + 1, self.learner.state())

    def is_due(self, checkpoint: Checkpoint) -> bool:
        """Return whether the checkpoint is due: of several ranks by the first one's clock, before the step that was made."""
        if self.training.ranks is None:
            return checkpoint.due
        due, self.due = self.due, checkpoint.due
        return due

    def save(self, checkpoint: Checkpoint, step: int, spent: float, device: torch.device) -> None:
        tensors = {f"state.{name}": value for name, value in self.learner.state().tensors().items()}
        tensors |= {f"optimiser.{name}": value for name, value in optimiser_tensors(self.optimiser).items()}
        if self.changing:
            tensors |= {f"mask.{name}": value for name, value in self.changing.tensors().items()}
        description = {"step": step, "spent": spent, "history": self.history}
        saved = partial(checkpoint.save, {**tensors, "losses": self.losses}, description, device)
        saved() if self.training.ranks is None else self.training.ranks.by_first(saved)

    def resume(self, checkpoint: Checkpoint | None, device: torch.device) -> tuple[int, float] | None:
        """Restore the checkpoint and return its (step, seconds spent); None without one."""
        ranks = self.training.ranks
        saved = None if checkpoint is None else ranks.load(checkpoint, device) if ranks else checkpoint.load(device)
        if checkpoint is None or saved is None:
            return None
        tensors, description = saved
        parts: dict[str, dict[str, Tensor]] = {"state": {}, "optimiser": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = value.to(device)
        if self.changing:
            self.changing.load(parts["mask"])
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
    elif settings.likelihood == "gaussian":
        likelihood = GaussianNoise(settings.noise_std, settings.learn_noise)
    else:
        likelihood = Bernoulli() if settings.likelihood == "bernoulli" else Poisson()
    if state.likelihood:
        load_learned(likelihood, state.likelihood)
    return likelihood
