"""Predictions of real numbers: mixtures of normals, one component a weight sample, all of one standard deviation.

Legend: S weight samples, B examples; more dimensions may follow B, whose entries are then measured one by one.
"""

import math
from itertools import combinations

import torch
from torch import Tensor

from .inputs import as_float64, same_shape

_HALVINGS = 60  # of an interval around a quantile: to the last bits of float64


def crps(means_SB: Tensor, noise_std: float, target_B: Tensor) -> float:
    """Return the mean continuous ranked probability score of the mixture, in the target's unit: 0 at best.

    In closed form (Grimit et al. 2006, eq. 5): mean_s A(y - m_s, v) - mean_st A(m_s - m_t, 2 v) / 2 with v = noise_std^2 and
    A(m, v) = E abs(N(m, v)). For noise_std to 0 and one sample it is abs(y - m). Raises ValueError as `gaussian_nll` does.
    """
    means_SB, target_B = _checked(means_SB, noise_std, target_B)
    near = torch.stack([_mean_abs(target_B - mean, noise_std) for mean in means_SB]).mean(0)
    samples, between = len(means_SB), math.sqrt(2) * noise_std
    spread = samples * _mean_abs(torch.zeros_like(target_B), between)  # of a sample with itself
    for first, second in combinations(means_SB, 2):
        spread = spread + 2 * _mean_abs(first - second, between)
    return (near - spread / (2 * samples**2)).mean().item()


def interval(means_SB: Tensor, noise_std: float, coverage: float = 0.9) -> tuple[Tensor, Tensor]:
    """Return the lower and upper ends, [B], of the mixture's central interval of that mass, in the target's unit."""
    if not 0 < coverage < 1:
        raise ValueError(f"coverage is {coverage}, it must be above 0 and below 1")
    means_SB, _ = _checked(means_SB, noise_std, means_SB[0])
    tail = (1 - coverage) / 2
    return _quantile(means_SB, noise_std, tail), _quantile(means_SB, noise_std, 1 - tail)


def intervals(means_SB: Tensor, noise_std: float, target_B: Tensor, coverage: float = 0.9) -> dict[str, float]:
    """Return crps, interval_coverage, the share of targets in `interval`, and interval_width, its mean length."""
    low, high = interval(means_SB, noise_std, coverage)
    target = as_float64(target_B)
    return {
        "crps": crps(means_SB, noise_std, target_B),
        "interval_coverage": ((low <= target) & (target <= high)).double().mean().item(),
        "interval_width": (high - low).mean().item(),
    }


def _quantile(means_SB: Tensor, noise_std: float, mass: float) -> Tensor:
    """Return where the mixture's distribution function is `mass`, by halving between the components' quantiles."""
    own = noise_std * float(torch.special.ndtri(torch.tensor(mass, dtype=torch.float64)))
    low, high = means_SB.amin(0) + own, means_SB.amax(0) + own
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = torch.special.ndtr((middle - means_SB) / noise_std).mean(0) < mass
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def _mean_abs(mean: Tensor, std: float) -> Tensor:
    """Return E abs(N(mean, std^2))."""
    z = mean / std
    density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    return std * (2 * density + z * torch.special.erf(z / math.sqrt(2)))


def _checked(means_SB: Tensor, noise_std: float, target_B: Tensor) -> tuple[Tensor, Tensor]:
    if not 0 < noise_std < math.inf:
        raise ValueError(f"noise_std is {noise_std}, it must be positive and finite")
    if means_SB.ndim < 2 or not len(means_SB):
        raise ValueError(f"means_SB has shape {tuple(means_SB.shape)}, at least one sample of B means is needed")
    same_shape("each sample of means_SB", means_SB[0], target_B)
    return as_float64(means_SB), as_float64(target_B)
