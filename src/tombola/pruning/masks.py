"""Masks over the flat order of a layout: keep the top, shuffle.

Legend: P parameters; a mask is bool [P] and True outside the prunable segments.
"""

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.posterior.layout import Layout, Segment


def prune_count(remaining: int, fraction: float) -> int:
    """How many of `remaining` weights a level prunes: the fraction, rounded to the nearest number (ties to even)."""
    return round(remaining * fraction)


def drop_lowest(scores: Tensor, count: int) -> Tensor:
    """Bool [n]: all but exactly `count` of the lowest scores; among equals the higher index goes first."""
    # stable sort: ties keep the lower index, so the count is exact
    order = torch.sort(scores, descending=True, stable=True).indices
    keep = torch.ones(scores.numel(), dtype=torch.bool)
    keep[order[scores.numel() - count :]] = False
    return keep


def prune(layout: Layout, mask: Tensor, scores: Tensor, fraction: float, scope: str) -> Tensor:
    """The next mask: of the surviving prunable weights, `fraction` with the lowest scores are pruned.

    scores: [P], read only where a prunable weight survives. scope: `global` ranks all of them together, `layerwise` takes
    the fraction of each segment.
    """
    groups = GROUPS[scope](layout)
    if not groups:
        raise TombolaError("nothing is prunable: every weight is excluded; set classifier: true or include a pattern")
    result = mask.clone()
    for where in groups:
        alive = where[mask[where]]
        result[alive] = drop_lowest(scores[alive], prune_count(alive.numel(), fraction))
    return result


def _all_prunable(layout: Layout) -> list[Tensor]:
    return [layout.prunable.nonzero().squeeze(1)] if layout.prunable_segments() else []


def _each_prunable(layout: Layout) -> list[Tensor]:
    return [_indices(s) for s in layout.prunable_segments()]


GROUPS = {"global": _all_prunable, "layerwise": _each_prunable}
"""Scope -> the index sets within which weights compete."""


def emptied(layout: Layout, mask: Tensor) -> list[str]:
    """Names of prunable tensors of which nothing is left."""
    return [s.name for s in layout.prunable_segments() if not bool(mask[s.slice].any())]


def shuffle_layerwise(layout: Layout, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Each segment's mask permuted within itself: every layer keeps its count."""
    return _permute(mask, _each_prunable(layout), generator)


def shuffle_global(layout: Layout, mask: Tensor, generator: torch.Generator) -> Tensor:
    """All prunable segments' masks concatenated and permuted: the total is kept."""
    return _permute(mask, _all_prunable(layout), generator)


def shuffle_even(layout: Layout, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Every segment random at the global density, to one weight; the total is kept exactly."""
    segments = layout.prunable_segments()
    kept = int(mask[layout.prunable].sum())
    result = mask.clone()
    for segment, count in zip(segments, _even_counts([s.numel for s in segments], kept), strict=True):
        layer = torch.zeros(segment.numel, dtype=torch.bool)
        layer[torch.randperm(segment.numel, generator=generator)[:count]] = True
        result[segment.slice] = layer
    return result


SHUFFLES = {"layerwise": shuffle_layerwise, "global": shuffle_global, "even": shuffle_even}


def _permute(mask: Tensor, groups: list[Tensor], generator: torch.Generator) -> Tensor:
    result = mask.clone()
    for where in groups:
        result[where] = mask[where][torch.randperm(where.numel(), generator=generator)]
    return result


def _even_counts(sizes: list[int], kept: int) -> list[int]:
    """Shares of `kept` in proportion to the sizes; what rounding down leaves goes to the largest remainders."""
    total = max(1, sum(sizes))
    counts = [kept * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(kept * sizes[i] % total), i))
    for i in by_remainder[: kept - sum(counts)]:
        counts[i] += 1
    return counts


def _indices(segment: Segment) -> Tensor:
    return torch.arange(segment.slice.start, segment.slice.stop)
