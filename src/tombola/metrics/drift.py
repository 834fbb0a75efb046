"""Drift of the weights' standard deviations: their log before and after training."""

import torch
from torch import Tensor

from .ranks import spearman


def log_std_drift(before: Tensor, after: Tensor, keep: Tensor) -> dict[str, float]:
    """Return the movement of log_std over the weights of `keep` (bool); all three arguments are flat and of one size.

    Keys: drift_mean and drift_spread, mean and standard deviation (ddof 0) of after - before, in nats (NaN if nothing
    is kept); drift_rank, the Spearman correlation of before and after, NaN where either is constant or fewer than three
    weights are kept. A rank near 1 says that a score with sigma in it still ranks the initial jitter.
    Raises ValueError if the shapes differ or are not flat, or keep is not bool.
    """
    shapes = [tuple(values.shape) for values in (before, after, keep)]
    if before.ndim != 1 or len(set(shapes)) > 1:
        raise ValueError(f"before, after and keep have shapes {shapes}, not one flat shape")
    if keep.dtype != torch.bool:
        raise ValueError(f"keep has dtype {keep.dtype}, bool is needed")
    # on their device: ranking two million weights takes a CPU longer than their training takes a GPU
    before, after = before.detach()[keep].double(), after.detach()[keep].double()
    change = after - before
    mean = change.mean()
    return {
        "drift_mean": mean.item(),
        "drift_spread": (change - mean).square().mean().sqrt().item(),  # std() warns of an empty tensor
        "drift_rank": spearman(torch.stack([before, after]))[0, 1].item(),
    }
