"""find_tickets: iterative pruning of a module on data in memory or from a loader."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tombola import plugins
from tombola.data.batches import Batches, LoaderBatches, TensorBatches
from tombola.data.shards import ShardBatches
from tombola.errors import TombolaError
from tombola.inference import OBJECTIVES, is_deterministic, method_of
from tombola.inference.estimators import ESTIMATORS
from tombola.posterior.arrays import as_tensors, validation_batches
from tombola.posterior.batch import Batch
from tombola.posterior.batch_norm import has_batch_norm
from tombola.posterior.cancelled import cancelled_biases
from tombola.posterior.layout import Layout
from tombola.posterior.likelihood import LogLikelihood, check_classes
from tombola.posterior.modes import training_mode
from tombola.posterior.predictive import statistics_of
from tombola.posterior.roles import later_names
from tombola.posterior.state import initial_state, layout_of
from tombola.pruning.chain import walk_chain
from tombola.pruning.iterate import prune_ticket, with_end
from tombola.pruning.masks import grouped_segments
from tombola.pruning.rewind import parse_rewind, step_of
from tombola.pruning.scores import SCORES, WITHOUT_STD, check_prunable, check_random, check_ranked, warn_of_bare
from tombola.pruning.ticket import Ticket, ticket_of, with_mask
from tombola.pruning.units import Units, units_of
from tombola.settings import PosteriorSettings, PruneSettings, TrainSettings
from tombola.settings.fields import settings_of
from tombola.settings.keys import canonical
from tombola.streams import generator

from .costs import weight_costs
from .loop import train as train_state
from .optim import SCHEDULES
from .ranks import Fabric
from .reference import reference_of


@training_mode
def find_tickets(
    module: nn.Module,
    data: tuple[Tensor, Tensor] | TensorDataset | Iterable[Batch] | TensorBatches | ShardBatches,
    *,
    examples: int | None = None,
    likelihood: nn.Module | LogLikelihood | None = None,
    mask: Mapping[str, Tensor] | None = None,
    train: TrainSettings | None = None,
    prune: PruneSettings | None = None,
    posterior: PosteriorSettings | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    validation: Batch | list[Batch] | TensorDataset | DataLoader[Any] | None = None,
    on_level: Callable[[Ticket], object] | None = None,
    progress: bool = True,
    fabric: Fabric | None = None,
    same_sample: bool = False,
) -> list[Ticket]:
    """Prune `module` iteratively; return one trained ticket a level, dense first, sparsest last.

    data: a pair (inputs, targets) of tensors or numpy arrays in memory, or a TensorDataset of it, which is shuffled and cut
        by `train.batch_size`; or a loader of batches with a length, iterated anew each epoch; or `ShardBatches`.
    examples: N, the size of a loader's training set; by default the examples of its `dataset` that it draws.
    likelihood, mask: as of `Bayesian`; a likelihood replaces the settings' one. fabric, same_sample: as of `train`.
    validation: held-out examples, as a batch, a list of them, or a DataLoader, which is read once; each epoch's row of
        `ticket.info["history"]` then has NLL (nats an example) and, of classes, accuracy of the mean weights.
    on_level: called with each level's trained ticket; where it returns something true, no further level is made.

    Tickets keep batch-norm statistics of their weight samples, measured on 256 examples (a loader's first ones). The module
    is left as it was; it starts from its present values. Raises TombolaError for settings that do not fit.
    """
    train, prune = settings_of(TrainSettings, train, "train"), settings_of(PruneSettings, prune, "prune")
    posterior = settings_of(PosteriorSettings, posterior, "posterior")
    plugins.resolve(prune.score, SCORES, "score")
    batches = _batches_of(data, examples, train.batch_size, seed, device)
    posterior = method_of(train.method).start(posterior, train, batches.examples)
    reference = reference_of(batches) if has_batch_norm(module) and not is_deterministic(train.method) else []
    layout = layout_of(module, posterior, prune, cancelled_biases(module, reference[0]) if reference else ())
    _check_fits(layout, train, prune, batches.steps)
    if isinstance(batches, TensorBatches) and likelihood is None:
        _check_targets(batches.targets, train)
    given = {"train": canonical(train), "prune": canonical(prune), "posterior": canonical(posterior)}
    info: dict[str, Any] = {"seed": seed, "settings": given, **_name_of(likelihood)}
    state = initial_state(module, layout, posterior, seed).to("cpu").as_family(method_of(train.method).learns)
    dense = with_mask(ticket_of(state, info), layout.mask_of(as_tensors(mask or {}), later_names(module)), state)
    costs, units = _ranking_of(prune, layout, module, batches, reference)
    if costs is not None:
        info["costs"] = costs
    held_out = validation_batches(validation)
    found: list[Ticket] = []
    with _bar(prune.levels + 1, train.epochs * batches.steps, progress) as show:
        given_all = module, batches, likelihood, train, prune, seed, device, info, held_out, reference, costs, units, show
        search = _Search(*given_all, fabric=fabric, same_sample=same_sample)
        for level in walk_chain(dense, prune, search.trained, search.pruned):
            found.append(level.trained)
            if on_level is not None and on_level(level.trained):
                break
    return found


def _ranking_of(
    prune: PruneSettings, layout: Layout, module: nn.Module, batches: Batches, reference: list[Any]
) -> tuple[dict[str, float] | None, Units | None]:
    """Return the costs of weights and the units that the rule ranks by, each None where the rule does not need it."""
    costly, structured = prune.budget != "weights", prune.structure != "none" and prune.levels > 0
    if not (costly or structured):
        return None, None
    (example, *_) = reference or reference_of(batches)
    costs = weight_costs(prune, layout, module, example) if costly else None
    return costs, units_of(module, layout, example, prune.structure) if structured else None


@dataclass(frozen=True)
class _Search:
    """Steps of a chain on tickets in memory."""

    module: nn.Module
    batches: Batches
    likelihood: nn.Module | LogLikelihood | None
    train: TrainSettings
    prune: PruneSettings
    seed: int
    device: torch.device | str
    info: dict[str, Any]
    validation: list[Batch]
    reference: list[Any]
    """Batches of training inputs that batch-norm statistics are measured on."""
    costs: Mapping[str, float] | None
    """Costs of weights in the budget; None of weights."""
    units: Units | None
    """Units of the structure; None without one."""
    show: Callable[[int, int], None]
    fabric: Fabric | None = None
    same_sample: bool = False

    def trained(self, ticket: Ticket, level: int, start: str, stop: str) -> Ticket:
        done = train_state(
            self.module,
            ticket.rewind.to(self.device),
            self.batches,
            self.train,
            stream=(self.seed, "find_tickets", level),
            likelihood=self.likelihood,
            start=step_of(start, self.batches.steps) or 0,
            stop=step_of(stop, self.batches.steps),
            validation=self.validation or None,
            on_step=lambda done, _: self.show(level, done),
            fabric=self.fabric,
            same_sample=self.same_sample,
        )
        info = self.info | {"level": level, "history": done.history}
        kept = statistics_of(self.module, done.state, self.reference)
        return replace(with_end(ticket, done.state), info=info, statistics=kept)

    def pruned(self, ticket: Ticket, restart: Ticket, level: int) -> Ticket:
        stream = generator("score", self.seed, level)
        return prune_ticket(ticket, restart.end, self.prune, stream, costs=self.costs, level=level, units=self.units)


def _name_of(likelihood: nn.Module | LogLikelihood | None) -> dict[str, str]:
    """Return the name of a caller's likelihood: a ticket has no code of it, and further training needs it again."""
    if likelihood is None:
        return {}
    own = likelihood if inspect.isfunction(likelihood) else type(likelihood)
    return {"likelihood": f"{own.__module__}:{own.__qualname__}"}


def _batches_of(data: Any, examples: int | None, size: int, seed: int, device: torch.device | str) -> Batches:
    name = type(data).__name__
    if isinstance(data, TensorBatches | ShardBatches):
        return data
    data = data.tensors if isinstance(data, TensorDataset) else data
    pair: tuple[Any, ...] = as_tensors(data) if isinstance(data, tuple) else ()
    if len(pair) == 2 and all(isinstance(part, Tensor) for part in pair):
        return TensorBatches(pair[0].to(device), pair[1].to(device), size, seed)
    if hasattr(data, "train") and hasattr(data, "fingerprint"):
        raise TombolaError("data is a Dataset; give its training part as a network takes it: (prepare(inputs), targets)")
    if isinstance(data, tuple | Mapping | Tensor):
        raise TombolaError(
            f"data is a {name}; it must be a pair of tensors (inputs, targets), a loader or a list of batches"
        )
    return LoaderBatches(data, examples, device)


def _check_fits(layout: Layout, train: TrainSettings, prune: PruneSettings, steps: int) -> None:
    """Raise TombolaError for settings that would fail after minutes of training. steps: of an epoch."""
    if train.sparse and prune.levels:
        raise TombolaError(
            f"train.sparse changes the mask within a training, and prune.levels {prune.levels} between them; set levels to 0"
        )
    if prune.score in SCORES and prune.score not in WITHOUT_STD and is_deterministic(train.method):
        raise TombolaError(
            f"score {prune.score!r} needs a std; with method {train.method} use one of {', '.join(sorted(WITHOUT_STD))}"
        )
    if not is_deterministic(train.method):
        check_random(layout)
        if prune.levels:
            check_ranked(layout, prune.score)
    plugins.resolve(train.schedule, SCHEDULES, "schedule")
    plugins.resolve(train.estimator, ESTIMATORS, "estimator")
    plugins.resolve(train.objective, OBJECTIVES, "objective")
    if prune.levels:
        check_prunable(layout)
    if prune.levels or not is_deterministic(train.method):
        warn_of_bare(layout)
    if prune.group and prune.levels:
        grouped_segments(layout, prune.group[1])
    start, end = step_of(parse_rewind(prune.rewind), steps) or 0, train.epochs * steps
    if start >= end:
        raise TombolaError(
            f"rewind {prune.rewind!r} is at step {start}, but the training has {end}: nothing would be trained"
        )


def _check_targets(targets: Tensor, train: TrainSettings) -> None:
    """Raise TombolaError for targets that do not fit the likelihood of the settings, or are not finite."""
    if not bool(targets.isfinite().all()):
        raise TombolaError("a target is not finite; leave the example out, or fill the target")
    real, mend = targets.is_floating_point(), ""
    if train.likelihood == "categorical" and real and not _are_probabilities(targets):
        rows = targets.ndim > 1 and targets.shape[-1] > 1 and bool(((targets == 0) | (targets == 1)).all())
        mend = (
            "use 'bernoulli' for several classes an example" if rows else "use 'gaussian', or give labels.long() of classes"
        )
    elif train.likelihood == "gaussian" and not real:
        mend = "use 'categorical' for classes, or give targets.float() of numbers"
    if mend:
        raise TombolaError(f"likelihood {train.likelihood!r} does not fit targets of {targets.dtype}; {mend}")


def _are_probabilities(targets: Tensor) -> bool:
    try:
        check_classes(targets, targets.shape[-1] if targets.ndim > 1 else 1)
    except TombolaError:
        return False
    return True


@contextmanager
def _bar(levels: int, steps: int, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar over levels and steps, in a terminal."""
    from rich.progress import Progress

    with Progress(disable=not shown, transient=True) as bar:
        task = bar.add_task("finding tickets", total=levels * steps)
        yield lambda level, done: bar.update(task, completed=level * steps + done)
