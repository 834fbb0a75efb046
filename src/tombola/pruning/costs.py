"""Scores per unit of cost: weights that are used at more places of an image must be worth more.

A step of pruning is a knapsack: keep the weights with the largest sum of scores within a budget of costs. Its greedy rule
ranks by score over cost, an exponent of 1; smaller exponents trust the score less as a value that can be added up.

Legend: P parameters of the layout.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.posterior.layout import Layout


def spread_costs(layout: Layout, costs: Mapping[str, float]) -> Tensor:
    """Return the cost of each parameter, float64 [P], from that of one weight by name; 0 where nothing is pruned.

    Raises TombolaError unless exactly the prunable parameters have a cost, and each is above 0.
    """
    prunable = layout.prunable_segments()
    names = [s.name for s in prunable]
    if unknown := sorted(costs.keys() - set(names)):
        raise TombolaError(f"there is a cost for {unknown[0]!r}, which is not prunable; prunable are {', '.join(names)}")
    flat = torch.zeros(layout.numel, dtype=torch.float64)
    for segment in prunable:
        if not costs.get(segment.name, 0.0) > 0:
            raise TombolaError(
                f"the weights of {segment.name!r} have a cost of {costs.get(segment.name, 'nothing')}; exclude them "
                "(prune.exclude) or use budget weights"
            )
        flat[segment.slice] = costs[segment.name]
    return flat


def per_cost(scores: Tensor, costs: Tensor, exponent: float) -> Tensor:
    """Return score / cost^exponent, [P]; a score below 0 is multiplied, so that cost never helps a weight.

    Within a layer, where all costs are equal, the order of the scores stays.
    """
    power = costs.clamp(min=torch.finfo(costs.dtype).tiny) ** exponent
    return torch.where(scores < 0, scores * power, scores / power)
