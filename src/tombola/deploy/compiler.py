"""From a trained ticket to a predictor."""

import warnings
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.posterior.batch_norm import KEPT, has_own, kept_of
from tombola.posterior.families import draws_of, weight_sample
from tombola.posterior.functional import holding
from tombola.posterior.modes import in_evaluation
from tombola.pruning.ticket import Ticket

if TYPE_CHECKING:
    from .graph import Graph
    from .predictor import Predictor
    from .tune import Choice
    from .uncertain import Moments, Samples


_TOLERANCE = 1e-4
"""Largest difference of a compiled network's outputs from the masked network's, over the largest output."""
_ROUGH = 1e-2
"""The same of moments, whose variances are differences of sums of squares."""
_SAMPLES, _NEAR = 64, 32
"""Weight samples, and inputs, that tell the size of moments' variances; inputs share a sample's noise, so few of them do."""


def compile(
    ticket: Ticket,
    module: nn.Module,
    example: Tensor,
    *,
    kernels: Literal["measured", "sparse", "dense"] = "measured",
) -> "Predictor":
    """Return the ticket's mean network, compiled for this machine's CPU, as a predictor of outputs [B, ...].

    The network is exported by torch.export in evaluation mode: batch norms, by the ticket's running statistics, are folded
    into the layers before them, and dead channels are removed exactly. Operations without a sparse kernel run in torch; the
    predictor's `summary()` names them. `module` is not changed.

    example: float32 inputs [B, ...] like the ones to come, a batch of their size: kernels are chosen for it, and later
        batches may have any size.
    kernels: `measured`, the fastest of each for this batch on this machine, kept in the cache folder ($TOMBOLA_CACHE, or
        ~/.cache/tombola) for the next time; or `sparse` or `dense` throughout, whose results don't depend on timings.

    Raises TombolaError if numba is not installed, if the ticket is untrained or of another model, if torch.export cannot
    follow the module, for another example, or if the compiled outputs for `example` are not within 1e-4 of the largest of
    the masked network's.
    """
    _check(example, kernels)
    from .graph import traced

    return _compiled(traced(module, example), module, ticket.state_dict(module), example, kernels)


def _compiled(
    program: Any, module: nn.Module, weights: Mapping[str, Tensor], example: Tensor, kernels: "str | Choice"
) -> "Predictor":
    """Return the network of a program of `module` with these weights, compiled; kernels: as of `compile`, or a choice."""
    from .dead import without_dead_channels
    from .graph import graph_of
    from .predictor import Predictor
    from .tune import choose

    graph = graph_of(program, module, weights)
    without_dead_channels(graph)
    with torch.inference_mode():
        choice = choose(graph, example, kernels) if isinstance(kernels, str) else kernels
        predictor = Predictor(graph, choice, example)
        with in_evaluation(module):
            expected = holding(module, weights)(example)
        _compare(predictor(example), expected, type(module).__name__)
    return predictor


def _compare(found: Tensor, expected: Tensor, name: str, tolerance: float = _TOLERANCE) -> None:
    """Raise TombolaError unless the outputs agree: a network that mixes its examples, or is random, cannot be compiled."""
    error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    if not error <= tolerance:
        raise TombolaError(
            f"compiled, {name} differs from itself by {error:.1e} of its largest output; a network whose outputs are "
            "random, or depend on the other examples of a batch, cannot be compiled"
        )


def compile_moments(
    ticket: Ticket,
    module: nn.Module,
    example: Tensor,
    *,
    kernels: Literal["measured", "sparse", "dense"] = "measured",
    training: Tensor | None = None,
) -> "Moments":
    """Return a predictor of the outputs' mean and variance under the ticket's posterior, in one pass without samples.

    Means and variances are carried through the operations of `moments.MOMENTS`, as of independent normal values. Batch norms
    have the statistics of weight samples: their variances as the ticket keeps them (with `training` as measured by moments),
    and without what a weight's noise adds to all examples alike. Arguments as of `compile`; the marginal variances of the
    posterior are used.

    In a network of three random layers or more, variances of outputs, and those before each batch norm, are scaled by one
    factor, found from weight samples on up to 32 inputs (64; those of which the ticket keeps batch-norm
    statistics): layers add up what the values before them share, of which independent values know nothing.

    example: as of `compile`; without `training` its inputs tell that factor.
    training: training inputs [N, ...] as the module takes them, on which batch-norm statistics are measured; 256 are enough.
        With those that the ticket keeps, of a few samples, moments are further from the average of many samples.

    Raises TombolaError as `compile` does, for a posterior without variances, and naming the first operation without a rule.
    """
    _check(example, kernels, needs_numba=kernels == "sparse")
    from .uncertain import DensePredictor, Moments

    graph = moments_graph(ticket, module, example, training)
    with torch.inference_mode():
        if find_spec("numba") is None:
            return Moments(DensePredictor(graph))
        from .predictor import Predictor
        from .tune import choose

        predictor, plain = Predictor(graph, choose(graph, example, kernels), example), DensePredictor(graph)
        for found, expected in zip(Moments(predictor)(example), Moments(plain)(example), strict=True):
            _compare(found, expected, type(module).__name__, _ROUGH)
        return Moments(predictor)


def moments_graph(ticket: Ticket, module: nn.Module, example: Tensor, training: Tensor | None = None) -> "Graph":
    """Return the graph of `compile_moments`, as operations on tensors [B, 2, ...] of means and variances."""
    from .calibrate import calibrate, match, spread_of
    from .graph import graph_of, traced
    from .moments import moments_of

    if (std := ticket.posterior.std) is None:
        raise TombolaError("the ticket's posterior is a point, which has no variances; take its mean")
    with warnings.catch_warnings():
        if training is not None:
            warnings.filterwarnings("ignore", "the ticket has no batch-norm statistics")
        weights = _under_samples(ticket, module)
    variances = {name: value.square() for name, value in ticket.layout.views(std).items()}
    program = traced(module, example)
    network = graph_of(program, module, weights, variances)
    deep = sum(bool(node.variances) for node in network.nodes.values()) > 2  # up to two, values of a layer are independent
    graph = moments_of(network, training)
    near = (example if training is None else training)[:_NEAR]
    norms = [node.name for node in graph.nodes.values() if node.norm is not None]
    drawn = _drawn(ticket, module, program, training) if deep else None
    with torch.inference_mode():
        population = None if ticket.posterior.points is None else len(ticket.posterior.points)
        spread = {} if drawn is None else spread_of(drawn, near, [*norms, network.output], population)
        if norms:
            calibrate(graph, near if training is None else training, spread, norms=training is not None)
        if spread:
            match(graph, near, spread[network.output])
    return graph


def _drawn(ticket: Ticket, module: nn.Module, program: Any, training: Tensor | None) -> "Iterator[Graph] | None":
    """Return networks of weight samples, two or more, with their batch-norm statistics; None where these are not known."""
    if has_own(module, ticket.posterior):
        if training is not None and (ticket.statistics is None or ticket.statistics.kept < KEPT):
            ticket = ticket.with_statistics(module, training)
        if ticket.statistics is None or ticket.statistics.kept < 2:
            return None
    kept = ticket.statistics
    samples, seed = (_SAMPLES, 0) if kept is None else (min(_SAMPLES, kept.kept), kept.seed)
    from .graph import graph_of

    return (graph_of(program, module, weights) for weights in _weights(ticket, module, samples, seed))


def _weights(ticket: Ticket, module: nn.Module, samples: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Yield the state_dict of each of the first weight samples of a seed, as `ticket.predict` has them."""
    q, first = ticket.posterior, {id(p): name for name, p in module.named_parameters()}
    names = {name: first[id(p)] for name, p in module.named_parameters(remove_duplicate=False)}
    mean = ticket.state_dict(module)
    count = draws_of(q, samples)
    own = kept_of(ticket.statistics, module, q, samples=count, seed=seed) or {}
    for s in range(count):
        views = ticket.layout.views(weight_sample(q, (seed,), s))
        drawn = {name: views[names[name]] for name in names} | {name: values[s] for name, values in own.items()}
        yield mean | drawn


def compile_samples(
    ticket: Ticket,
    module: nn.Module,
    example: Tensor,
    *,
    samples: int = 16,
    seed: int = 0,
    kernels: Literal["measured", "sparse", "dense"] = "measured",
) -> "Samples":
    """Return the weight samples that `ticket.predict` draws with this seed, each compiled as `compile` does the mean.

    Each has its own batch-norm statistics folded in, and multiplies surviving weights alone. The network is exported and its
    kernels are chosen once; of a posterior of K points there are at most K, each once. Arguments as of `compile`; samples:
    at least 1, as many as the ticket keeps statistics of.

    Raises TombolaError as `compile` does, and for samples of which the ticket keeps no statistics.
    """
    _check(example, kernels)
    if samples < 1:
        raise TombolaError(f"samples is {samples}; it must be at least 1")
    from .graph import traced
    from .uncertain import Samples

    program, predictors = traced(module, example), list["Predictor"]()
    for weights in _weights(ticket, module, samples, seed):
        choice = predictors[0].choice if predictors else kernels
        predictors.append(_compiled(program, module, weights, example, choice))
    return Samples(predictors)


def _under_samples(ticket: Ticket, module: nn.Module) -> dict[str, Any]:
    """Return the ticket's mean weights, with the batch-norm variances of its weight samples, averaged.

    The means that the samples' channels have are those under the mean weights, for noise of the weights is 0 on average;
    their variances are larger. A ticket without such statistics has the running ones, which is warned of.
    """
    weights, own = ticket.state_dict(module), ticket.statistics
    if own is not None:
        weights |= {name: v.mean(0) for name, v in own.samples.items() if name.endswith("running_var")}
    return weights


def _check(example: Tensor, kernels: str, needs_numba: bool = True) -> None:
    """Raise TombolaError without numba, for an unknown choice of kernels, and for an example that is no float32 batch."""
    if needs_numba and find_spec("numba") is None:
        raise TombolaError("compiling a ticket needs numba, which is not installed: pip install 'tombola[deploy]'")
    if kernels not in ("measured", "sparse", "dense"):
        raise TombolaError(f"kernels is {kernels!r}; it must be measured, sparse or dense")
    check_example(example)


def check_example(example: Tensor, what: str = "example is") -> None:
    """Raise TombolaError for inputs that are no batch of float32, or of int64 tokens, on the CPU."""
    if (
        not isinstance(example, Tensor)
        or example.dtype not in (torch.float32, torch.int64)
        or example.device.type != "cpu"
        or not example.numel()
    ):
        kind = f"{example.dtype} on {example.device}" if isinstance(example, Tensor) else type(example).__name__
        raise TombolaError(f"{what} {kind}; it must be a batch [B, ...] of torch.float32, or int64 tokens, on the CPU")
