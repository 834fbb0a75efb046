"""How much memory a training will need, before it runs.

Found by training two small batches for two steps on the CPU with the real learner, estimator, precision and optimiser, and
counting what is alive (`allocations`), so what another method or setting needs is in it without a formula.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from tombola.data.batches import Batches, LoaderBatches, Prepare
from tombola.errors import TombolaError
from tombola.inference import is_deterministic, method_of
from tombola.posterior.batch import Batch, examples_of, inputs_of, logits_of, parts
from tombola.posterior.likelihood import LogLikelihood
from tombola.posterior.predictive import outputs
from tombola.posterior.state import State, initial_state, layout_of
from tombola.pruning.ticket import Ticket
from tombola.settings import EvaluateSettings, PosteriorSettings, PruneSettings, TrainSettings

from .allocations import Allocations, Peak, peak_of
from .evaluate import evaluate_ticket
from .loop import train as train_state

OVERHEAD = 0.1
"""Share that is added: scratch space of convolutions and products, and blocks that the allocator cannot fill."""


@dataclass(frozen=True)
class MemoryForecast:
    """Bytes that a training and its evaluation need at their peaks, beside the program itself."""

    weights: float
    """The model, its state, gradients, noise and the optimiser: what stays between two steps."""
    activations: float
    """What a step needs beside: outputs kept for the backward pass, and gradients on their way."""
    data: float = 0.0
    """Training data that are put on the device."""
    evaluation: float = 0.0
    """All that the evaluation of a trained ticket needs; 0 where none was asked for."""

    @property
    def total(self) -> float:
        """The larger of training and evaluation, with `OVERHEAD`."""
        return (1 + OVERHEAD) * max(self.weights + self.activations + self.data, self.evaluation)

    @property
    def parts(self) -> dict[str, float]:
        """What the total is made of, by name, the largest first."""
        trains = {"activations": self.activations, "weights and optimiser": self.weights, "data": self.data}
        found = {"evaluation": self.evaluation} if self.evaluation > sum(trains.values()) else trains
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def times(self, processes: int) -> "MemoryForecast":
        """Return the forecast of that number of processes."""
        return MemoryForecast(
            processes * self.weights, processes * self.activations, processes * self.data, processes * self.evaluation
        )

    @property
    def inner(self) -> str:
        """The parts in words."""
        return ", ".join(f"{name} {in_words(size)}" for name, size in self.parts.items() if size)

    def __str__(self) -> str:
        return f"{in_words(self.total)} ({self.inner})"


def in_words(size: float) -> str:
    """Bytes as people say them: 1.2 GB."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6)):
        if size >= bytes_:
            return f"{size / bytes_:.{1 if size < 10 * bytes_ else 0}f} {unit}"
    return f"{size / 1e3:.0f} kB"


def forecast_memory(
    module: nn.Module,
    data: tuple[Tensor, Tensor] | Iterable[Batch],
    *,
    likelihood: nn.Module | LogLikelihood | None = None,
    train: TrainSettings | None = None,
    prune: PruneSettings | None = None,
    posterior: PosteriorSettings | None = None,
) -> MemoryForecast:
    """What `find_tickets` with the same arguments needs at its peak, in bytes; found on the CPU, also for a GPU.

    A pair of tensors counts as `data`, since it is put on the device; a loader does not. The module is left as it was.
    """
    train, prune, posterior = train or TrainSettings(), prune or PruneSettings(), posterior or PosteriorSettings()
    pair = isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
    batch: Any = data if pair else next(iter(data), None)
    if batch is None:
        raise TombolaError("the data have no batch; give at least one")
    here = examples_of(batch)

    def few(examples: int) -> Any:
        return tree_map_only(Tensor, lambda t: t.cpu().clone(), next(parts(batch, here, examples)))

    case = Case(
        start=lambda: _own(module, posterior, prune),
        batches=lambda examples: LoaderBatches([few(examples)] * 2, examples=2 * examples),
        inputs=lambda examples: inputs_of(few(examples)),
        given=batch,
        examples=here,
    )
    found = training_needs(case, train, min(train.batch_size, here), likelihood=likelihood, masked=prune.levels > 0)
    return replace(found, data=float(sum(part.nbytes for part in batch))) if pair else found


def _own(module: nn.Module, posterior: PosteriorSettings, prune: PruneSettings) -> tuple[nn.Module, State]:
    own = copy.deepcopy(module).to("cpu")
    return own, initial_state(own, layout_of(own, posterior, prune), posterior, 0)


@dataclass(frozen=True)
class Case:
    """What is trained on what."""

    start: Callable[[], tuple[nn.Module, State]]
    batches: Callable[[int], Batches]
    """Two batches of so many examples, on the CPU."""
    inputs: Callable[[int], Any]
    """Inputs of so many examples, as `outputs` takes them."""
    given: Any
    """The tensors that were there before: they do not count."""
    examples: int
    """At most so many can be asked for in one batch."""
    prepare: Prepare | None = None

    def sizes(self, parts: int = 1) -> tuple[int, int]:
        """Of the two runs: the fewest examples that batch norm can do with in each of `parts`."""
        few, many = 2 * parts, 4 * parts
        return (few, many) if many <= self.examples else (self.examples, self.examples)


def training_needs(
    case: Case,
    train: TrainSettings,
    batch_size: int,
    *,
    likelihood: nn.Module | LogLikelihood | None = None,
    masked: bool,
    validated: int = 0,
) -> MemoryForecast:
    """Of training alone. masked: whether weights are pruned; validated: examples that are measured at once."""
    kept: list[int] = []
    # a third sample needs no more than a second: each has the memory of the one before; here is a CPU, and a graph or a
    # compiled network would not be worth its making
    short = replace(train, epochs=1, samples=min(train.samples, 2), cuda_graphs=False, compile=False)

    def run(examples: int, allocations: Allocations) -> None:
        allocations.ignore(*tree_leaves(case.given))
        module, state = case.start()
        if masked:
            mask = state.posterior.mask.clone()
            mask[:1] = False
            state = state.masked(mask)
        # the state itself stays: it is the ticket's
        train_state(
            module,
            state.as_family(method_of(train.method).learns),
            case.batches(examples),
            replace(short, batch_size=examples),
            words=("memory",),
            likelihood=likelihood,
            on_step=lambda done, _: kept.append(allocations.now),
        )

    peak = peak_of(run, case.sizes(train.accumulate))
    weights = float(kept[1])
    validation = _forward(case, []).of_examples(validated) if validated else 0.0
    return MemoryForecast(weights, max(peak.at(batch_size) - weights, validation))


def evaluation_needs(
    case: Case, targets: Tensor, evaluate: EvaluateSettings, train: TrainSettings, device: torch.device
) -> float:
    """Of all that `evaluate_ticket` does, for the examples of `targets`."""
    numbers: list[int] = []
    kept: list[int] = []
    short = replace(evaluate, samples=1, repeats=1)

    def run(examples: int, allocations: Allocations) -> None:
        allocations.ignore(*tree_leaves(case.given))
        module, state = case.start()
        state = state.as_family(method_of(train.method).learns)
        ticket = Ticket(state.posterior.mask, state, state.masked(state.posterior.mask))
        measure = replace(short, batch_size=examples)
        few = case.inputs(examples), targets[:examples]
        kept.append(allocations.now)
        evaluate_ticket(module, ticket, few, measure, train, ("memory",), torch.device("cpu"), case.prepare)

    peak = peak_of(run, case.sizes())
    _forward(case, numbers)
    count, samples = len(targets), 1 if is_deterministic(train.method) else evaluate.samples
    passes = peak.at(min(evaluate.batch_size, count)) + samples * count * numbers[0] * _OF_PASSES
    if device.type != "cpu":
        return passes
    return max(passes, kept[0] + samples * count * numbers[0] * _OF_METRICS + count * evaluate.redraws * _OF_REDRAWS)


_OF_PASSES = 8  # bytes an output: the parts, and all of them put together
_OF_METRICS = 32  # bytes an output: itself, and in float64 its probability, p log p and what is summed of it
_OF_REDRAWS = 40  # bytes a redrawn label: int64 labels, bins, hits and their sums


def _forward(case: Case, numbers: list[int]) -> Peak:
    """Of a forward pass without a graph. numbers: gets how many numbers an example has for output."""

    def run(examples: int, allocations: Allocations) -> None:
        allocations.ignore(*tree_leaves(case.given))
        module, state = case.start()
        given = case.inputs(examples)
        out = outputs(module, state, given, samples=1, words=("memory",), select=logits_of, prepare=case.prepare)
        numbers.append(out[0, 0].numel())

    return peak_of(run, case.sizes())
