"""Pruning and shuffling of masks over the flat order of a layout.

Weights are ranked and drawn in row-major order, so that ties and draws do not depend on how weights lie in memory.

Legend: P parameters; a mask is bool [P] and True outside the prunable segments.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.posterior.layout import Layout, Segment


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


def drop_cheapest(scores: Tensor, costs: Tensor, amount: float) -> Tensor:
    """Return bool [n], False at the lowest scores whose costs sum up to `amount` as nearly as whole weights can.

    costs: float64 [n], above 0. Among equal scores the higher index is dropped first, as by `drop_lowest`.
    """
    order = scores.flip(0).argsort(stable=True)  # of the flipped scores: the higher index comes first among equals
    order = scores.numel() - 1 - order
    spent = costs[order].cumsum(0)
    below = spent <= amount
    count = int(below.sum())
    if count < scores.numel():
        short = amount - (float(spent[count - 1]) if count else 0.0)
        count += int(float(spent[count]) - amount < short)
    keep = torch.ones_like(scores, dtype=torch.bool)
    keep[order[:count]] = False
    return keep


def prune(layout: Layout, mask: Tensor, scores: Tensor, fraction: float, scope: str, costs: Tensor | None = None) -> Tensor:
    """Return the next mask: the `fraction` of the surviving prunable weights with the lowest scores is pruned.

    scores: [P], read only where a prunable weight survives. scope: `global` ranks all of them together, `layerwise` takes
    the fraction of each segment, `erk` leaves each segment its count of `erk_counts`. costs: float64 [P]; then the fraction
    is one of their sum over the survivors, met within half the cost of the last weight.
    """
    groups = GROUPS[scope](layout)
    if not groups:
        raise TombolaError("nothing is prunable: every weight is excluded; set classifier: true or include a pattern")
    result = mask.clone()
    if scope == "erk":
        survivors = [where[mask[where]] for where in groups]
        total = sum(map(len, survivors))
        shapes = [s.shape for s in layout.prunable_segments()]
        kept = erk_counts(shapes, list(map(len, survivors)), total - prune_count(total, fraction))
        for alive, count in zip(survivors, kept, strict=True):
            result[alive] = drop_lowest(scores[alive], len(alive) - count)
        return result
    for where in groups:
        alive = where[mask[where]]
        if costs is None:
            result[alive] = drop_lowest(scores[alive], prune_count(alive.numel(), fraction))
        else:
            result[alive] = drop_cheapest(scores[alive], costs[alive], fraction * float(costs[alive].sum()))
    return result


def keep_in_groups(layout: Layout, mask: Tensor, scores: Tensor, kept: int, size: int) -> Tensor:
    """Return the next mask, with at most `kept` of each `size` consecutive inputs: those with the highest scores.

    scores: [P], read where a prunable weight survives. Groups lie along the second dimension of a weight, the first of
    them at 0; among equals the lower index is kept. Segments with another number of dimensions, or of inputs than a
    multiple of `size`, stay as they are.
    """
    result = mask.clone()
    for segment in grouped_segments(layout, size):
        values, alive = (segment.view(flat).movedim(1, -1) for flat in (scores, mask))
        shape, alive = alive.shape, alive.reshape(-1, size)
        place = _places(values.reshape(-1, size).argsort(dim=1, descending=True, stable=True))
        place = _places(torch.where(alive, place, size + place).argsort(1))  # what is pruned comes last
        result[segment.slice] = segment.flat((alive & (place < kept)).view(shape).movedim(-1, 1))
    return result


def grouped_segments(layout: Layout, size: int) -> list[Segment]:
    """Return the prunable segments that consist of groups of `size` inputs. Raises TombolaError where there is none."""
    found = [s for s in layout.prunable_segments() if len(s.shape) > 1 and s.shape[1] % size == 0]
    if not found:
        raise TombolaError(f"a pattern of groups of {size} fits no prunable weight: none has a multiple of {size} inputs")
    return found


def _places(order: Tensor) -> Tensor:
    """Return the place of each element of a row in the `order`, whose rows list elements: the inverse permutation."""
    return order.argsort(1)


def _all_prunable(layout: Layout) -> list[Tensor]:
    each = _each_prunable(layout)
    return [torch.cat(each)] if each else []


def _each_prunable(layout: Layout) -> list[Tensor]:
    return [s.rows() for s in layout.prunable_segments()]


GROUPS = {"global": _all_prunable, "layerwise": _each_prunable, "erk": _each_prunable}
"""Index sets within which weights compete, by scope."""


def erk_counts(shapes: Sequence[Sequence[int]], most: Sequence[int], kept: int) -> list[int]:
    """Share `kept` weights out among layers by the Erdős-Rényi-kernel rule (Evci et al. 2020, RigL, section 3).

    A layer's count is proportional to the sum of its dimensions: inputs + outputs + kernel height + kernel width. One that
    would have more than its `most` weights has these, and the others share the rest. The remainder of rounding down goes to
    the largest fractions.
    """
    size, rest = {i: sum(shape) for i, shape in enumerate(shapes)}, kept
    counts = dict.fromkeys(size, 0)
    while full := [i for i, own in size.items() if own * rest > most[i] * sum(size.values())]:
        for i in full:
            counts[i] = most[i]
            rest -= most[i]
            del size[i]
    total = max(1, sum(size.values()))
    counts |= {i: own * rest // total for i, own in size.items()}
    room = [i for i in size if counts[i] < most[i]]
    for i in sorted(room, key=lambda i: (-(size[i] * rest % total), i))[: kept - sum(counts.values())]:
        counts[i] += 1
    return [counts[i] for i in range(len(shapes))]


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
