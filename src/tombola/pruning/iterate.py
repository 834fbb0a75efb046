"""One level of iterative pruning, and the control arms made from a level's ticket."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tombola import plugins
from tombola.errors import TombolaError
from tombola.posterior.dropout import Dropout
from tombola.posterior.families import Posterior
from tombola.posterior.layout import Layout
from tombola.posterior.state import State
from tombola.settings import PruneSettings

from .costs import per_cost, spread_costs
from .masks import SHUFFLES, emptied, keep_in_groups, prune
from .scores import SCORES, evaluate
from .structure import prune_units, shuffle_units
from .ticket import Ticket, with_mask
from .units import Units


def prune_ticket(
    ticket: Ticket,
    start: State,
    settings: PruneSettings,
    generator: torch.Generator,
    *,
    costs: Mapping[str, float] | None = None,
    level: int = 0,
    scores: Tensor | None = None,
    units: Units | None = None,
) -> Ticket:
    """Return the next level's ticket: `ticket` pruned by its trained posterior, its survivors restarted at `start`.

    start: read whole (means, std, deterministic parameters, buffers). settings: their `score`, `sigma`, `fraction`,
    `scope`, and what they say of a budget, target, pattern or structure. generator: for scores that draw, and a shuffled
    sigma. costs: of one weight of each prunable parameter, by name, for another budget than weights (`training.costs`).
    level: of `ticket`, which a target and a pattern need. scores: float64 [P] of an untrained ticket. units: those of a
    structure (`pruning.units`).

    Warns with the names of layers that this level has emptied, and where whole units leave more than was asked for. Raises
    TombolaError for an unknown name.
    """
    layout = ticket.layout
    if scores is None:
        scores = scores_of(ticket.posterior, settings.score, SIGMAS[settings.sigma](ticket, generator), generator)
    if settings.structure != "none":
        return with_mask(ticket, _without_units(ticket, scores, settings, costs, level, units, generator), start)
    mask = _next_mask(ticket, scores, settings, costs, level)
    before = emptied(layout, ticket.mask)
    if new := [repr(layer) for layer in emptied(layout, mask) if layer not in before]:
        layers = f"layer {new[0]}" if len(new) == 1 else f"{len(new)} layers ({', '.join(new)})"
        warnings.warn(f"pruning by {settings.score} has emptied {layers}: no weight is left there", stacklevel=2)
    return with_mask(ticket, mask, start)


def scores_of(posterior: Posterior, score: str, std: Tensor | None, generator: torch.Generator) -> Tensor:
    """Return the scores of the surviving prunable weights, float64 [P], 0 elsewhere; std: [P], None of a point."""
    function, layout = plugins.resolve(score, SCORES, "score"), posterior.layout
    if isinstance(posterior, Dropout) and score in RATIOS:
        raise TombolaError(f"score {score!r} is equal for all weights that method mc_dropout drops; use mu")
    rows = layout.rows()
    alive = rows[(posterior.mask.cpu() & layout.prunable)[rows]]
    scores = torch.zeros(layout.numel, dtype=torch.float64)
    mean = posterior.mean.cpu()[alive]
    scores[alive] = evaluate(score, function, mean, None if std is None else std.cpu()[alive], generator)
    return scores


def _next_mask(
    ticket: Ticket, scores: Tensor, settings: PruneSettings, costs: Mapping[str, float] | None, level: int
) -> Tensor:
    layout, mask = ticket.layout, ticket.mask
    if settings.group:
        size = settings.group[1]
        return keep_in_groups(layout, mask, scores, size - level - 1, size)
    if settings.budget == "weights":
        return prune(layout, mask, scores, settings.fraction_at(level, ticket.density), settings.scope)
    flat, scores = _priced(layout, scores, settings, costs)
    left = float(flat[mask].sum() / flat.sum())
    return prune(layout, mask, scores, settings.fraction_at(level, left), settings.scope, flat)


def _priced(
    layout: Layout, scores: Tensor, settings: PruneSettings, costs: Mapping[str, float] | None
) -> tuple[Tensor, Tensor]:
    """Return the cost of each weight in the budget, 0 where nothing is pruned, and its score per cost; float64 [P]."""
    if settings.budget == "weights":
        return layout.prunable.double(), scores
    if costs is None:
        raise TombolaError(f"budget {settings.budget} needs the costs of weights; give costs (tombola.training.costs)")
    flat = spread_costs(layout, costs)
    return flat, per_cost(scores, flat, settings.cost_exponent)


def _without_units(
    ticket: Ticket,
    scores: Tensor,
    settings: PruneSettings,
    costs: Mapping[str, float] | None,
    level: int,
    units: Units | None,
    generator: torch.Generator,
) -> Tensor:
    """Return the next mask of a structure."""
    if units is None:
        raise TombolaError(f"structure {settings.structure} needs the network's units; give units (tombola.pruning.units)")
    flat, scores = _priced(ticket.layout, scores, settings, costs)
    total, own = float(flat.sum()), torch.where(ticket.mask, flat, 0.0)
    asked = settings.fraction_at(level, float(own.sum()) / total) * float(own.sum())
    if settings.score == "random":  # of a mean over many weights the largest units would be in the middle
        worth = torch.rand(len(units), generator=generator, dtype=torch.float64)
    else:
        worth = units.worth(scores, ticket.mask & ticket.layout.prunable)
    mask, gone = prune_units(units, ticket.mask, worth, asked, own, settings.scope)
    if bool((units.layer[units.alive(mask)].bincount() == 1).all()) and gone < asked:
        share = (float(own.sum()) - gone) / total
        warnings.warn(
            f"structure {settings.structure} leaves {share:.3f} of the {settings.budget}, more than was asked for: a unit "
            "of each layer stays, and what is of no unit",
            stacklevel=3,
        )
    return mask


RATIOS = ("snr", "folded_snr")
"""Scores of the ratio of mean and std alone."""


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


def with_end(ticket: Ticket, end: State) -> Ticket:
    """Return the ticket as trained to `end`, on the CPU, under the mask of that, which a training may have changed."""
    mask, end = end.posterior.mask.cpu(), end.to("cpu")
    if not torch.equal(mask, ticket.mask):
        ticket = with_mask(ticket, mask, ticket.rewind)
    return replace(ticket, trained=end)


def shuffled(ticket: Ticket, start: State, how: str, generator: torch.Generator, units: Units | None = None) -> Ticket:
    """Return the ticket with its mask shuffled (`layerwise`, `global` or `even`) and the dense `start` under it.

    units: shuffle these in place of single weights.
    """
    if units is not None:
        return with_mask(ticket, shuffle_units(units, ticket.layout, ticket.mask, how, generator), start)
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
