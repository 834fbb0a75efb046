"""Scores that rank weights: higher survives. A new score is a function of a few lines and a line in SCORES.

mean, std: flat float64 tensors [n] of the surviving prunable weights; generator: for scores that draw. Result: [n].
"""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from tombola.errors import TombolaError
from tombola.posterior.layout import Layout
from tombola.posterior.roles import BARE

Score = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def mu(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Return abs(mean)."""
    return mean.abs()


def snr(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Return abs(mean) / std: Graves 2011; "IMP" of a Bayesian network in arXiv 2602.18825. Infinite where std is 0."""
    return mean.abs() / std


def square(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Return sqrt(mean^2 + std^2), the root of E w^2."""
    return (mean.square() + std.square()).sqrt()


def random(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Draw uniformly from [0, 1): the baseline without information."""
    return torch.rand(mean.shape, generator=generator, dtype=mean.dtype)


def std_large(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Return std: the uncertain weights survive."""
    return std


def std_small(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Return -std: the certain weights survive."""
    return -std


def folded_mean(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Return E abs(w), the mean of the folded normal (used by SSVI)."""
    ratio = mean / std
    folded = mean * torch.erf(ratio / math.sqrt(2)) + std * math.sqrt(2 / math.pi) * torch.exp(-0.5 * ratio.square())
    return torch.where(std > 0, folded, mean.abs())


def folded_snr(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Return E abs(w) / sd abs(w), the signal-to-noise ratio of the folded normal (used by SSVI)."""
    size, ratio = mean.abs(), mean.abs() / std
    excess = std * math.sqrt(2 / math.pi) * torch.exp(-0.5 * ratio.square()) - size * torch.erfc(ratio / math.sqrt(2))
    first = size + excess  # sd^2 = std^2 + mean^2 - first^2 without the difference of nearly equal squares
    return first / (std.square() - excess * (first + size)).sqrt()


def snr_coded(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Return abs(mean) / (std^2 + 1e-6), "snr" in the code of arXiv 2602.18825."""
    return mean.abs() / (std.square() + 1e-6)


def square_coded(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Return mean^2 + (log std)^2, "square" in the code of arXiv 2602.18825; it ranks by log std."""
    return mean.square() + std.log().square()


def bmr(mean: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Return mean^2 / (2 std^2) + log std: what the log evidence loses, but for the prior's log std, when a weight is 0.

    Bayesian model reduction of a Gaussian (Friston & Penny 2011), log p(0) - log q(0) of prior and posterior; of single
    weights, where BMRS (Wright et al. 2024) reduces structures. Infinite where std is 0 and mean is not.
    """
    return torch.where((std > 0) | (mean == 0), 0.5 * (mean / std).square() + std.log(), torch.inf)


SCORES: dict[str, Score] = {
    "mu": mu,
    "snr": snr,
    "square": square,
    "random": random,
    "std_large": std_large,
    "std_small": std_small,
    "folded_mean": folded_mean,
    "folded_snr": folded_snr,
    "snr_coded": snr_coded,
    "square_coded": square_coded,
    "bmr": bmr,
    "magnitude": mu,  # its name for deterministic networks
}

WITHOUT_STD = frozenset({"magnitude", "mu", "random"})
"""Names of the scores that make sense for a deterministic network."""


AT_START = frozenset({"snip", "grasp", "synflow"})
"""Names of the scores of an untrained network that need its gradients (`training.at_start`)."""


def evaluate(name: str, score: Score, mean: Tensor, std: Tensor | None, generator: torch.Generator) -> Tensor:
    """Return the score of each weight, float64 [n].

    std: None for a point, for which a user's score gets zeros. Raises TombolaError if one of `SCORES` needs the std that a
    point lacks, for a wrong shape, and for NaN, which cannot be ranked.
    """
    if std is None:
        if name in SCORES and name not in WITHOUT_STD:
            raise TombolaError(
                f"score {name!r} needs a std, and this posterior is a point; use one of {', '.join(sorted(WITHOUT_STD))}"
            )
        std = torch.zeros_like(mean)
    values = score(mean.double(), std.double(), generator)
    if values.shape != mean.shape:
        raise TombolaError(f"score {name!r} returned shape {tuple(values.shape)} for {tuple(mean.shape)} weights")
    nothing = values.isnan() & (mean == 0) & (std == 0)  # 0/0: a weight that is exactly zero goes first
    values = values.masked_fill(nothing, -math.inf)
    undefined = int(values.isnan().sum())
    if undefined:
        raise TombolaError(
            f"score {name!r} is nan for {undefined} of {values.numel()} weights; correct it or train less far"
        )
    return values


def check_random(layout: Layout) -> None:
    """Raise TombolaError where no parameter is random: a Bayesian method would train a point."""
    if not layout.random_numel:
        raise TombolaError(
            "no parameter is random, so the network would be deterministic: choose some by posterior.random (name patterns, "
            "as in ['*weight']), make a module of which tombola knows the layers (not a scripted or traced one), or use "
            "method map"
        )


def check_prunable(layout: Layout, of: str = "") -> None:
    """Raise TombolaError, which begins with `of`, where no weight may be pruned."""
    if not layout.prunable_segments():
        bare = f" ({named})" if (named := _bare(layout)[0]) else ""
        raise TombolaError(f"{of}nothing is prunable; set prune.classifier: true or prune.include{bare}")


def warn_of_bare(layout: Layout) -> None:
    """Warn of bare weights, as of recurrent layers, that hold over a quarter of the parameters and stay as they are."""
    named, share = _bare(layout)
    if share > 0.25:
        warnings.warn(f"{named}; so {share:.0%} of the parameters are neither random nor pruned", stacklevel=3)


def _bare(layout: Layout) -> tuple[str, float]:
    """Return the first bare weight that no pattern chooses, in words, and the share of all of them."""
    found = [s for s in layout.segments if BARE in s.why and not s.prunable and len(s.shape) > 1]
    share = sum(s.numel for s in found) / max(1, layout.numel)
    return next((f"{s.name!r} is {s.why}" for s in found), ""), share


def check_ranked(layout: Layout, score: str) -> None:
    """Raise TombolaError where a score of `SCORES` needs a std that prunable parameters lack: it would be infinite."""
    fixed = [s.name for s in layout.prunable_segments() if not s.random]
    if fixed and score in SCORES and score not in WITHOUT_STD:
        raise TombolaError(
            f"score {score!r} needs a std, but {fixed[0]!r} is prunable and deterministic: exclude it (prune.exclude), make "
            f"it random (posterior.random), or use one of {', '.join(sorted(WITHOUT_STD))}"
        )
