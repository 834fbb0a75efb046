"""Forecast of the memory that a training or an evaluation needs, made before it runs.

Two small batches are trained on for two steps on the CPU with the real learner, estimator, precision and optimiser, and the
tensors that are alive are counted, so what another method or setting needs is in it without a formula.

Memory is linear in the number of examples at every moment, but its peak is not: with few it lies where gradients and
optimiser meet, with many where all activations wait for the backward pass. So the moments are extrapolated one by one.
"""

import copy
import weakref
from collections.abc import Callable, Iterable, Sized
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from tombola.data.batches import Batches, LoaderBatches, Prepare
from tombola.errors import TombolaError
from tombola.files import in_words
from tombola.inference import is_deterministic, method_of
from tombola.posterior.batch import Batch, examples_of, logits_of, parts
from tombola.posterior.batch_norm import EXAMPLES, measuring_layers
from tombola.posterior.likelihood import LogLikelihood
from tombola.posterior.modes import training_mode
from tombola.posterior.predictive import outputs
from tombola.posterior.state import State, initial_state, layout_of
from tombola.pruning.ticket import Ticket
from tombola.settings import EvaluateSettings, PosteriorSettings, PruneSettings, TrainSettings

from .evaluate import evaluate_ticket
from .loop import train as train_state
from .validate import VALIDATED_AT_ONCE

OVERHEAD = 0.1
"""Share that is added: scratch space of convolutions and products, and blocks that the allocator cannot fill."""


@dataclass(frozen=True)
class MemoryForecast:
    """Bytes that a training and its evaluation need at their peaks, beside the program itself."""

    weights: float
    """Model, state, gradients, noise and optimiser: all that stays between two steps."""
    activations: float
    """Outputs kept for the backward pass, and intermediate gradients."""
    data: float = 0.0
    """Training data that are put on the device."""
    evaluation: float = 0.0
    """Evaluation of a trained ticket; 0 where none was asked for."""

    @property
    def total(self) -> float:
        """The larger of training and evaluation, with `OVERHEAD`."""
        return (1 + OVERHEAD) * sum(self.parts.values())

    @property
    def parts(self) -> dict[str, float]:
        """The parts of the total by name, the largest first."""
        trains = {"activations": self.activations, "weights and optimiser": self.weights, "data": self.data}
        found = {"evaluation": self.evaluation} if self.evaluation > sum(trains.values()) else trains
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def times(self, processes: int) -> "MemoryForecast":
        """Return the need of several processes that each do the same."""
        return MemoryForecast(*(processes * size for size in astuple(self)))

    @property
    def inner(self) -> str:
        """The parts in words."""
        return ", ".join(f"{name} {in_words(size)}" for name, size in self.parts.items() if size)

    def __str__(self) -> str:
        return f"{in_words(self.total)} ({self.inner})"


@training_mode
def forecast_memory(
    module: nn.Module,
    data: tuple[Tensor, Tensor] | Iterable[Batch],
    *,
    likelihood: nn.Module | LogLikelihood | None = None,
    train: TrainSettings | None = None,
    prune: PruneSettings | None = None,
    posterior: PosteriorSettings | None = None,
) -> MemoryForecast:
    """Return the peak of `find_tickets` with the same arguments, in bytes; measured on the CPU, also for a GPU.

    A pair of tensors counts as `data`, since it is put on the device; a loader does not. The module is left as it was.
    """
    train, prune, posterior = train or TrainSettings(), prune or PruneSettings(), posterior or PosteriorSettings()
    pair = isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)
    batch: Any = data if pair else next(iter(data), None)
    if batch is None:
        raise TombolaError("the data have no batch; give at least one")
    here = examples_of(batch)
    examples = here if pair or not isinstance(data, Sized) else here * len(data)
    posterior = method_of(train.method).start(posterior, train, examples)

    def start() -> tuple[nn.Module, State]:
        own = copy.deepcopy(module).to("cpu")
        return own, initial_state(own, layout_of(own, posterior, prune), posterior, 0)

    def batches(examples: int) -> Batches:
        few = tree_map_only(Tensor, lambda t: t.cpu().clone(), next(parts(batch, here, examples)))
        return LoaderBatches([few] * 2, examples=2 * examples)

    found = training_needs(
        Case(start, batches, given=batch, examples=here),
        train,
        min(train.batch_size, here),
        likelihood=likelihood,
        masked=prune.levels > 0,
    )
    return replace(found, data=float(sum(part.nbytes for part in batch))) if pair else found


@dataclass(frozen=True)
class Case:
    """A model and its data, to be tried with few examples on the CPU."""

    start: Callable[[], tuple[nn.Module, State]]
    batches: Callable[[int], Batches]
    """Two batches of the given number of examples."""
    given: Any
    """Tensors that exist before: they do not count."""
    examples: int
    """Most examples that a batch can have."""
    held_out: tuple[Any, Tensor] | None = None
    """Inputs and targets that the training is validated on, or that are evaluated."""
    prepare: Prepare | None = None

    def peak(self, run: "Callable[[int, Allocations], None]", parts: int = 1) -> "Callable[[int], float]":
        """Return the peak of `run`, found with the fewest examples that batch norm can do with in each of `parts`."""
        few, many = 2 * parts, 4 * parts
        sizes = (few, many) if many <= self.examples else (self.examples, self.examples)
        return peak_of(run, sizes, tree_leaves(self.given))


def training_needs(
    case: Case,
    train: TrainSettings,
    batch_size: int,
    *,
    likelihood: nn.Module | LogLikelihood | None = None,
    masked: bool,
) -> MemoryForecast:
    """Return the need of training alone. masked: whether weights are pruned."""
    kept: list[int] = []
    # a third sample needs no more than a second: each has the memory of the one before; here is a CPU, and a graph or a
    # compiled network would not be worth its making
    # two of four steps: what a method does at the end, at most some 64 MB at a time, uses torch.func, which allows no hooks
    short = replace(train, epochs=2, samples=min(train.samples, 2), cuda_graphs=False, compile=False)

    def run(examples: int, allocations: Allocations) -> None:
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
            stream=("memory",),
            stop=2,
            likelihood=likelihood,
            on_step=lambda done, _: kept.append(allocations.now),
        )

    peak = case.peak(run, train.accumulate)
    weights, validation = float(kept[1]), 0.0
    if case.held_out:
        forward, _ = _forward(case, case.held_out[0])
        validation = forward(min(VALIDATED_AT_ONCE, len(case.held_out[1]))) - forward(0)
    return MemoryForecast(weights, max(peak(batch_size) - weights, validation))


def evaluation_needs(
    case: Case, evaluate: EvaluateSettings, train: TrainSettings, device: torch.device, training: int
) -> MemoryForecast:
    """Return the need of `evaluate_ticket` with the held-out examples. training: number of training examples."""
    assert case.held_out is not None
    (inputs, targets), point = case.held_out, is_deterministic(train.method)
    kept: list[int] = []
    short = replace(evaluate, samples=1, repeats=1, measures=[])  # these pass over other inputs one set at a time

    def run(examples: int, allocations: Allocations) -> None:
        module, state = case.start()
        state = state.as_family(method_of(train.method).learns)
        ticket = Ticket(state.posterior.mask, state, state.masked(state.posterior.mask))
        few, measure = (inputs[:examples], targets[:examples]), replace(short, batch_size=examples)
        kept.append(allocations.now)
        evaluate_ticket(module, ticket, few, few[0], measure, train, ("memory",), torch.device("cpu"), case.prepare)

    peak = case.peak(run)
    _, width = _forward(case, inputs)
    count, numbers = len(targets), (1 if point else evaluate.samples) * len(targets) * width
    own = not point and evaluate.batch_norm == "samples" and bool(measuring_layers(case.start()[0]))
    measured = min(EXAMPLES, training) if own else 0
    needs = peak(max(min(evaluate.batch_size, count), measured)) + numbers * _OF_PASSES
    if device.type == "cpu":
        needs = max(needs, kept[0] + numbers * _OF_METRICS + count * evaluate.redraws * _OF_REDRAWS)
    return MemoryForecast(0.0, 0.0, evaluation=needs)


_OF_PASSES = 8  # bytes an output: the parts, and all of them put together
_OF_METRICS = 32  # bytes an output: itself, and in float64 its probability, p log p and what is summed of it
_OF_REDRAWS = 40  # bytes a redrawn label: int64 labels, bins, hits and their sums


def _forward(case: Case, inputs: Any) -> "tuple[Callable[[int], float], int]":
    """Return the peak of a forward pass without a graph, and how many numbers an example has for output."""
    numbers: list[int] = []

    def run(examples: int, _: Allocations) -> None:
        module, state = case.start()
        few = inputs[:examples]
        how: dict[str, Any] = {"samples": 1, "stream": ("memory",), "batch_norm": "running"}
        out = outputs(module, state, few, select=logits_of, prepare=case.prepare, **how)
        numbers.append(out[0, 0].numel())

    return case.peak(run), numbers[0]


class Allocations(TorchDispatchMode):
    """Counter of living bytes that were allocated within it; scratch space inside an operation is not seen."""

    def __init__(self, ignored: Iterable[Any] = ()) -> None:
        """ignored: tensors that count nothing."""
        super().__init__()
        self.now = 0
        """Bytes that are alive at present."""
        self.peaks = [0]
        """Peaks of `now` between each two marks."""
        self._alive: dict[int, Any] = {}
        for tensor in ignored:
            self._count(tensor, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            self._count(tensor)
        self.peaks[-1] = max(self.peaks[-1], self.now)
        return out

    def _count(self, tensor: Any, bytes_: int | None = None) -> None:
        if not isinstance(tensor, Tensor) or (key := (storage := tensor.untyped_storage())._cdata) in self._alive:
            return
        size = storage.nbytes() if bytes_ is None else bytes_

        def freed(_: Any) -> None:
            self.now -= size
            self._alive.pop(key, None)

        self.now += size
        self._alive[key] = weakref.ref(storage, freed)

    def mark(self, it: Any = None) -> Any:
        """Begin another moment; return what was given."""
        self.peaks.append(self.now)
        return it


def peak_of(
    run: Callable[[int, Allocations], None], sizes: tuple[int, int], ignored: Iterable[Any] = ()
) -> Callable[[int], float]:
    """Run `run(examples, allocations)` at two sizes, and return the function from examples to the most bytes at any moment.

    Every run has the same moments: the end of each module, and where a tensor is saved for the backward pass or used by it.
    Where the two differ in them, the whole peaks make the line.
    """
    found = []
    for size in sizes:
        allocations = Allocations(ignored)
        hook = register_module_forward_hook(lambda *_, marking=allocations: marking.mark())
        try:
            with saved_tensors_hooks(allocations.mark, allocations.mark), allocations:
                run(size, allocations)
        finally:
            hook.remove()
        found.append(allocations.peaks)
    small, large = found
    if len(small) != len(large):
        small, large = [max(small)], [max(large)]
    (few, many), lines = sizes, set()
    for low, high in zip(small, large, strict=True):
        each = max(0.0, (high - low) / (many - few)) if many > few else 0.0
        lines.add((high - each * many, each))
    return lambda examples: max(fixed + each * examples for fixed, each in lines)
