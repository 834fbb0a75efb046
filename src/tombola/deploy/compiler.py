"""From a trained ticket to a predictor."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.pruning.ticket import Ticket

if TYPE_CHECKING:
    from .predictor import Predictor
    from .uncertain import Moments


_TOLERANCE = 1e-4
"""Largest difference of a compiled network's outputs from the masked network's, over the largest output."""


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
    from .dead import without_dead_channels
    from .graph import exported, in_evaluation
    from .predictor import Predictor
    from .tune import choose

    weights = ticket.state_dict(module)
    graph = exported(module, weights, example)
    without_dead_channels(graph)
    with torch.inference_mode():
        predictor = Predictor(graph, choose(graph, example, kernels), example)
        with in_evaluation(module):
            expected = torch.func.functional_call(module, weights, (example,))
        _compare(predictor(example), expected, type(module).__name__)
    return predictor


def _compare(found: Tensor, expected: Tensor, name: str) -> None:
    """Raise TombolaError unless the outputs agree: a network that mixes its examples, or is random, cannot be compiled."""
    error = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    if not error <= _TOLERANCE:
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
) -> "Moments":
    """Return a predictor of the outputs' mean and variance under the ticket's posterior, in one pass without samples.

    Means and variances are carried through convolutions, linear layers, batch norms, ReLU and smooth activations, pooling
    and sums, as of independent normal values. On networks with batch norm by running statistics they can be far from what
    weight samples give. Arguments as of `compile`; the marginal variances of the posterior are used.

    Raises TombolaError as `compile` does, for a posterior without variances, and naming the first operation without a rule.
    """
    _check(example, kernels)
    from .graph import exported
    from .moments import moments_of
    from .predictor import Predictor
    from .tune import choose
    from .uncertain import Moments

    weights = ticket.state_dict(module)
    if (std := ticket.posterior.std) is None:
        raise TombolaError("the ticket's posterior is a point, which has no variances; compile it by tombola.compile")
    variances = {name: value.square() for name, value in ticket.layout.views(std).items()}
    graph = moments_of(exported(module, weights, example, variances))
    with torch.inference_mode():
        return Moments(Predictor(graph, choose(graph, example, kernels), example))


def _check(example: Tensor, kernels: str) -> None:
    """Raise TombolaError without numba, for an unknown choice of kernels, and for an example that is no float32 batch."""
    if find_spec("numba") is None:
        raise TombolaError("compiling a ticket needs numba, which is not installed: pip install 'tombola[deploy]'")
    if kernels not in ("measured", "sparse", "dense"):
        raise TombolaError(f"kernels is {kernels!r}; it must be measured, sparse or dense")
    if (
        not isinstance(example, Tensor)
        or example.dtype != torch.float32
        or example.device.type != "cpu"
        or not example.numel()
    ):
        kind = f"{example.dtype} on {example.device}" if isinstance(example, Tensor) else type(example).__name__
        raise TombolaError(f"example is {kind}; it must be a batch of inputs [B, ...] in torch.float32 on the CPU")
