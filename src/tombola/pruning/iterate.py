"""One level of iterative pruning, and the control arms made from a level's ticket."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from tombola import plugins
from tombola.errors import TombolaError
from tombola.posterior.state import State
from tombola.settings import PruneSettings

from .masks import SHUFFLES, emptied, prune
from .scores import SCORES, evaluate
from .ticket import Ticket, with_mask


def prune_ticket(ticket: Ticket, start: State, settings: PruneSettings, generator: torch.Generator) -> Ticket:
    """Return the next level's ticket: `ticket` pruned by its trained posterior, its survivors restarted at `start`.

    start: read whole (means, std, deterministic parameters, buffers). settings: their `score`, `sigma`,
    `fraction` and `scope`. generator: for scores that draw, and a shuffled sigma.

    Warns with the names of layers that this level has emptied. Raises TombolaError for an unknown name.
    """
    score = plugins.resolve(settings.score, SCORES, "score")
    layout, q = ticket.layout, ticket.posterior
    rows = layout.rows()
    alive = rows[(ticket.mask & layout.prunable)[rows]]
    scores = torch.zeros(layout.numel, dtype=torch.float64)
    std = SIGMAS[settings.sigma](ticket, generator)
    scores[alive] = evaluate(settings.score, score, q.mean[alive], None if std is None else std[alive], generator)
    mask = prune(layout, ticket.mask, scores, settings.fraction, settings.scope)
    before = emptied(layout, ticket.mask)
    if new := [repr(layer) for layer in emptied(layout, mask) if layer not in before]:
        layers = f"layer {new[0]}" if len(new) == 1 else f"{len(new)} layers ({', '.join(new)})"
        warnings.warn(f"pruning by {settings.score} has emptied {layers}: no weight is left there", stacklevel=2)
    return with_mask(ticket, mask, start)


def _trained(ticket: Ticket, generator: torch.Generator) -> Tensor | None:
    return ticket.posterior.std


def _at_the_start(ticket: Ticket, generator: torch.Generator) -> Tensor | None:
    return ticket.rewind.posterior.std


def _shuffled(ticket: Ticket, generator: torch.Generator) -> Tensor | None:
    """Return the trained std, permuted among the survivors of each layer."""
    if (trained := ticket.posterior.std) is None:
        return None
    std = trained.clone()
    for segment in ticket.layout.prunable_segments():
        alive = segment.kept(ticket.mask)
        std[alive] = std[alive[torch.randperm(alive.numel(), generator=generator)]]
    return std


SIGMAS: dict[str, Callable[[Ticket, torch.Generator], Tensor | None]] = {
    "trained": _trained,
    "start": _at_the_start,
    "shuffled": _shuffled,
}
"""Sources of the std [P] that a score reads, None for a point; the last two are controls of the learned sigma."""


def shuffled(ticket: Ticket, start: State, how: str, generator: torch.Generator) -> Ticket:
    """Return the ticket with its mask shuffled (`layerwise`, `global` or `even`) and the dense `start` under it."""
    return with_mask(ticket, SHUFFLES[how](ticket.layout, ticket.mask, generator), start)


def transplanted(ticket: Ticket, bayesian: State) -> Ticket:
    """Return a deterministic ticket in a Bayesian network: its mask and its rewind values as means, std from `bayesian`.

    Raises TombolaError if the two have different layouts or `bayesian` has no std.
    """
    q = bayesian.posterior
    if q.std is None:
        raise TombolaError("transplanting needs a state to take std from, as a Gaussian one; this one is a point")
    if q.layout.segments != ticket.layout.segments:
        raise TombolaError("the ticket and the Bayesian network have different parameters or roles: no transplant")
    posterior = q.with_mean(ticket.rewind.posterior.mean)
    return with_mask(ticket, ticket.mask, replace(ticket.rewind, posterior=posterior))
