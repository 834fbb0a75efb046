"""Pruning and shuffling of whole units.

Legend: P parameters of the layout, U units.
"""

from collections import Counter

import torch
from torch import Tensor

from tombola.posterior.layout import Layout

from .units import Units


def prune_units(
    units: Units, mask: Tensor, worth: Tensor, amount: float, costs: Tensor, scope: str = "global"
) -> tuple[Tensor, float]:
    """Return the next mask [P], without the units of the lowest worth, and the costs that fell away.

    These are as near to `amount` as whole units allow; no layer loses its last one. worth: [U], read where a unit survives;
    among equals the later one goes first. costs: float64 [P], of each surviving weight that counts, else 0. scope: with
    `layerwise` each layer loses the same share of its units, but for rounding.
    """
    alive = units.alive(mask)
    if scope == "layerwise":
        worth = _share_below(units, alive, worth)
    kept, gone = _lowest(units, alive, worth, amount, costs)
    return units.masked(mask, kept), gone


def _lowest(units: Units, alive: Tensor, worth: Tensor, amount: float, costs: Tensor) -> tuple[Tensor, float]:
    """Return the units that are left, bool [U], and the costs that fell away."""
    flat = torch.cat([costs, costs.new_zeros(units.size - len(costs))])
    left = [flat[product.places].sum(2) for product in units.products]
    rows, columns = _places(units)
    remaining = Counter(units.layer[alive].tolist())
    values = worth.tolist()
    kept, gone = alive.clone(), 0.0
    for unit in sorted(alive.nonzero().flatten().tolist(), key=lambda unit: (values[unit], -unit)):
        layer = int(units.layer[unit])
        if remaining[layer] == 1:
            continue
        own = 0.0
        for number, row in rows[unit]:
            own += float(left[number][row].sum())
            left[number][row] = 0
        for number, column in columns[unit]:
            own += float(left[number][:, column].sum())
            left[number][:, column] = 0
        if gone + own > amount and gone + own - amount >= amount - gone:
            break
        kept[unit], gone, remaining[layer] = False, gone + own, remaining[layer] - 1
        if gone >= amount:
            break
    return kept, gone


Places = list[list[tuple[int, Tensor]]]


def _places(units: Units) -> tuple[Places, Places]:
    """Return, for each unit, its rows and its columns: (number of the product, their indices)."""
    rows: Places = [[] for _ in range(len(units) + 1)]
    columns: Places = [[] for _ in range(len(units) + 1)]
    for number, product in enumerate(units.products):
        for of, side in ((rows, product.out), (columns, product.read)):
            which, counts = side.unique(return_counts=True)
            for unit, places in zip(which.tolist(), side.argsort(stable=True).split(counts.tolist()), strict=True):
                of[unit].append((number, places))
    return rows, columns


def _share_below(units: Units, alive: Tensor, worth: Tensor) -> Tensor:
    """Return the share of each unit's layer that goes before it, half of itself counted, float64 [U]."""
    share = torch.zeros(len(units), dtype=torch.float64)
    values = worth.tolist()
    for layer in units.layer.unique():
        own = (alive & (units.layer == layer)).nonzero().flatten().tolist()
        order = sorted(own, key=lambda unit: (values[unit], -unit))
        share[order] = (torch.arange(len(own), dtype=torch.float64) + 0.5) / max(1, len(own))
    return share


def shuffle_units(units: Units, layout: Layout, mask: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """Return a mask with other units at random; masks of single weights in what survives are dense again.

    `layerwise` keeps each layer's number of units, and so of weights; `global` drops units of all layers in a random order
    until the number of weights is as near to the mask's as whole units allow; `even` does so with the same share of each.
    """
    alive, dense = units.alive(mask), torch.ones_like(mask)
    if how == "layerwise":
        drawn = alive.clone()
        for layer in units.layer.unique():
            own = (units.layer == layer).nonzero().flatten()
            drawn[own] = alive[own[torch.randperm(len(own), generator=generator)]]
        return units.masked(dense, drawn)
    worth = torch.rand(len(units), generator=generator, dtype=torch.float64)
    costs = layout.prunable.double()
    amount = float(costs.sum()) - float(costs[mask].sum())
    return prune_units(units, dense, worth, amount, costs, "layerwise" if how == "even" else "global")[0]
