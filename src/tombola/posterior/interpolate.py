"""The straight line between two states."""

from dataclasses import replace

import torch
from torch import Tensor

from ..errors import TombolaError
from .gaussian import Gaussian, Point
from .state import State


def interpolated(a: State, b: State, alpha: float) -> State:
    """(1 - alpha) a + alpha b: means, std (not its logarithm), buffers and what the likelihood learns; the ends themselves
    at 0 and 1.

    What either mask keeps is kept, so a weight that both prune stays exactly zero. Batch-norm statistics of an average are
    no average of statistics: have them `reestimated`. Raises TombolaError for two layouts, for a point and a Gaussian, and
    for an alpha outside 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise TombolaError(f"alpha is {alpha}; it must be from 0 to 1")
    p, q = a.posterior, b.posterior
    if p.layout.segments != q.layout.segments:
        raise TombolaError("the two states have different parameters or roles: there is no line between them")
    if type(p) is not type(q):
        raise TombolaError("one state is a point and the other one is not: there is no line between them")
    if alpha in (0, 1):
        return b if alpha else a
    mask = p.mask | q.mask
    mean = torch.lerp(p.mean, q.mean, alpha)
    posterior: Gaussian | Point
    if isinstance(p, Gaussian) and isinstance(q, Gaussian):
        posterior = replace(p, mean=mean, mask=mask, log_std=mean, prior_mean=None)
        std = torch.lerp(p.std, q.std, alpha).clamp(min=torch.finfo(mean.dtype).tiny)
        posterior = replace(posterior, log_std=torch.where(posterior.random_kept, std, 1.0).log())  # finite everywhere
    else:
        posterior = replace(p, mean=mean, mask=mask)
    return State(posterior, _between(a.buffers, b.buffers, alpha), _between(a.likelihood, b.likelihood, alpha))


def _between(a: dict[str, Tensor], b: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Numbers that count (batches seen) are those of `a`."""
    return {k: torch.lerp(v, b[k], alpha) if v.is_floating_point() and k in b else v for k, v in a.items()}
