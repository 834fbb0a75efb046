"""How much two masks have in common, and how much two random masks of the same layer densities would.

Legend: P parameters of a layout.
"""

from collections.abc import Sequence

from torch import Tensor

from tombola.posterior.layout import Layout


def jaccard(intersection: float, kept_a: float, kept_b: float) -> float:
    """Size of the intersection over size of the union, in [0, 1], of two sets of so many weights; 1 for two empty sets.

    Jaccard 1912.
    """
    union = kept_a + kept_b - intersection
    return intersection / union if union else 1.0


def expected_intersection(sizes: Sequence[int], kept_a: Sequence[int], kept_b: Sequence[int]) -> float:
    """How many weights two independent random masks share on average, that keep so many weights of each layer.

    The sum over layers of a * b / n, exact: the mean of the hypergeometric distribution.
    """
    return sum(a * b / n for n, a, b in zip(sizes, kept_a, kept_b, strict=True) if n)


def overlap_by_chance(sizes: Sequence[int], kept_a: Sequence[int], kept_b: Sequence[int]) -> float:
    """The Jaccard index that chance gives to two masks of these layer counts: the ratio of the expectations.

    sizes, kept_a, kept_b: weights, and survivors of each mask, layer by layer. The union is the rest of a fixed sum, so its
    expectation is exact too. The expected ratio itself is larger, by about the variance of the intersection over the square
    of the union: nothing that is seen with a thousand weights.
    """
    return jaccard(expected_intersection(sizes, kept_a, kept_b), sum(kept_a), sum(kept_b))


def layer_masks(layout: Layout, mask: Tensor) -> dict[str, Tensor]:
    """Name -> bool [n] of the prunable tensors; by name, since two layouts may order them differently."""
    return {s.name: mask[s.slice] for s in sorted(layout.prunable_segments(), key=lambda s: s.name)}


def mask_distance(a: Tensor, b: Tensor) -> float:
    """Share of weights on which two masks (bool, of equal shape) differ, in [0, 1]: the normalised Hamming distance by which
    You et al. 2020 tell early-bird tickets."""
    return (a != b).double().mean().item() if a.numel() else 0.0
