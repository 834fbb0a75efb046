"""Arguments of the metrics: checked once and turned into float64 on the CPU.

Legend: B examples, C classes, S weight samples.
"""

import torch
from torch import Tensor

_SUM_TOLERANCE = 1e-3  # a float16 softmax over a thousand classes stays within it


def as_float64(values: Tensor) -> Tensor:
    """Return the values in float64: detached, contiguous, on the CPU.

    On the CPU, because sums of floats into bins are not reproducible on a GPU, and so that one generator draws the same
    labels wherever the predictions were made.
    """
    return values.detach().to("cpu", torch.float64).contiguous()


def as_probs(probs: Tensor, shape: str) -> Tensor:
    """Return probabilities in float64, one dimension a letter of `shape` ("BC", "SBC"), classes last.

    Raises ValueError for another number of dimensions, an empty tensor, a negative entry or a sum over the classes that
    is not 1 within 1e-3 (so NaN raises too).
    """
    name = f"probs_{shape}"
    if probs.ndim != len(shape):
        raise ValueError(f"{name} has shape {tuple(probs.shape)}, {len(shape)} dimensions are needed")
    if probs.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(probs.shape)}, there is nothing to score")
    probs = as_float64(probs)
    if (lowest := probs.min().item()) < 0:
        raise ValueError(f"{name} has a negative probability {lowest}")
    sums = probs.sum(-1).flatten()
    wrong = ~((sums - 1).abs() <= _SUM_TOLERANCE)  # negated, because no comparison with NaN holds
    if wrong.any():
        raise ValueError(f"{name} sums to {sums[wrong][0].item()} over the classes, not to 1")
    return probs


def as_labels(labels_B: Tensor, probs_BC: Tensor) -> Tensor:
    """Return labels in int64 on the CPU, fit for these probabilities.

    Raises ValueError if they are not integers, not one for each example, or not a class.
    """
    examples, classes = probs_BC.shape
    if labels_B.shape != (examples,):
        raise ValueError(f"labels_B has shape {tuple(labels_B.shape)}, probs_BC has shape {tuple(probs_BC.shape)}")
    if labels_B.is_floating_point() or labels_B.is_complex() or labels_B.dtype == torch.bool:
        raise ValueError(f"labels_B has dtype {labels_B.dtype}, integers are needed")
    labels_B = labels_B.to("cpu", torch.int64)
    wrong_B = (labels_B < 0) | (labels_B >= classes)
    if wrong_B.any():
        raise ValueError(f"labels_B has the label {labels_B[wrong_B][0].item()}, the classes are 0 to {classes - 1}")
    return labels_B


def same_shape(name: str, values: Tensor, target: Tensor) -> None:
    """Raise ValueError unless both have one shape and at least one entry."""
    if values.shape != target.shape:
        raise ValueError(f"{name} has shape {tuple(values.shape)}, the target {tuple(target.shape)}")
    if target.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(values.shape)}, there is nothing to score")
