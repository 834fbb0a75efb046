"""Overlap of two masks, and of two random masks of the same layer densities.

Legend: P parameters of a layout.
"""

from collections.abc import Sequence

from torch import Tensor

from tombola.posterior.layout import Layout


def jaccard(intersection: float, kept_a: float, kept_b: float) -> float:
    """Return the Jaccard index of two sets: intersection over union, in [0, 1]; 1 for two empty sets.

    Jaccard 1912. kept_a, kept_b: their sizes.
    """
    union = kept_a + kept_b - intersection
    return intersection / union if union else 1.0


def expected_intersection(sizes: Sequence[int], kept_a: Sequence[int], kept_b: Sequence[int]) -> float:
    """Return the expected number of weights shared by two independent random masks of these layer counts.

    The sum over layers of a * b / n, exact: the mean of the hypergeometric distribution.
    """
    return sum(a * b / n for n, a, b in zip(sizes, kept_a, kept_b, strict=True) if n)


def overlap_by_chance(sizes: Sequence[int], kept_a: Sequence[int], kept_b: Sequence[int]) -> float:
    """Return the Jaccard index of two random masks of these layer counts: the ratio of the expectations.

    sizes, kept_a, kept_b: weights, and survivors of each mask, layer by layer. The union is a fixed sum less the
    intersection, so its expectation is exact too. The expected ratio itself is larger, by about the variance of the
    intersection over the square of the union: negligible from a thousand weights on.
    """
    return jaccard(expected_intersection(sizes, kept_a, kept_b), sum(kept_a), sum(kept_b))


def layer_masks(layout: Layout, mask: Tensor) -> dict[str, Tensor]:
    """Return the masks, bool [n], of the prunable tensors by name: two layouts may order them differently."""
    return {s.name: mask[s.slice] for s in sorted(layout.prunable_segments(), key=lambda s: s.name)}


def mask_distance(a: Tensor, b: Tensor) -> float:
    """Return the share of weights, in [0, 1], on which two masks (bool, of equal shape) differ.

    This normalised Hamming distance tells early-bird tickets in You et al. 2020.
    """
    return (a != b).double().mean().item() if a.numel() else 0.0
