"""Pruning and shuffling of masks over the flat order of a layout.

Weights are ranked and drawn in row-major order, so that ties and draws do not depend on how weights lie in memory.

Legend: P parameters; a mask is bool [P] and True outside the prunable segments.
"""

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.posterior.layout import Layout


def prune_count(remaining: int, fraction: float) -> int:
    """Return the number of `remaining` weights that a level prunes: the fraction, rounded (ties to even)."""
    return round(remaining * fraction)


def drop_lowest(scores: Tensor, count: int) -> Tensor:
    """Return bool [n], False at exactly `count` of the lowest scores; among equals the higher index is dropped first."""
    if not count:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(count).values  # a selection: a sort takes ten times longer
    keep, ties = scores > threshold, (scores == threshold).nonzero()[:, 0]
    keep[ties[: scores.numel() - int(keep.sum()) - count]] = True
    return keep


def prune(layout: Layout, mask: Tensor, scores: Tensor, fraction: float, scope: str) -> Tensor:
    """Return the next mask: the `fraction` of the surviving prunable weights with the lowest scores is pruned.

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
    each = _each_prunable(layout)
    return [torch.cat(each)] if each else []


def _each_prunable(layout: Layout) -> list[Tensor]:
    return [s.rows() for s in layout.prunable_segments()]


GROUPS = {"global": _all_prunable, "layerwise": _each_prunable}
"""Index sets within which weights compete, by scope."""


def emptied(layout: Layout, mask: Tensor) -> list[str]:
    """Return the names of prunable tensors without a surviving weight."""
    return [s.name for s in layout.prunable_segments() if not bool(mask[s.slice].any())]


def shuffle_layerwise(layout: Layout, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Permute each segment's mask within itself: every layer keeps its count."""
    return _permute(mask, _each_prunable(layout), generator)


def shuffle_global(layout: Layout, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Permute the mask over all prunable segments together: the total is kept."""
    return _permute(mask, _all_prunable(layout), generator)


def shuffle_even(layout: Layout, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Draw every segment at random at the global density, to one weight; the total is kept exactly."""
    segments = layout.prunable_segments()
    kept = int(mask[layout.prunable].sum())
    result = mask.clone()
    for segment, count in zip(segments, _even_counts([s.numel for s in segments], kept), strict=True):
        layer = torch.zeros(segment.numel, dtype=torch.bool)
        layer[torch.randperm(segment.numel, generator=generator)[:count]] = True
        result[segment.rows()] = layer
    return result


SHUFFLES = {"layerwise": shuffle_layerwise, "global": shuffle_global, "even": shuffle_even}


def _permute(mask: Tensor, groups: list[Tensor], generator: torch.Generator) -> Tensor:
    result = mask.clone()
    for where in groups:
        result[where] = mask[where][torch.randperm(where.numel(), generator=generator)]
    return result


def _even_counts(sizes: list[int], kept: int) -> list[int]:
    """Share `kept` out in proportion to the sizes; the remainder of rounding down goes to the largest fractions."""
    total = max(1, sum(sizes))
    counts = [kept * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(kept * sizes[i] % total), i))
    for i in by_remainder[: kept - sum(counts)]:
        counts[i] += 1
    return counts
