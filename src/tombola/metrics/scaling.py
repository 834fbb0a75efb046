"""Temperature scaling: one number, fitted on held-out examples, that makes predictions more or less sure.

The averaged prediction is scaled and not each weight sample, since averaging makes it less sure again (Rahaman and Thiery
2021: pool, then calibrate). For one sample it is the temperature scaling of logits of Guo et al. 2017.

Legend: B examples, C classes.
"""

import math

import torch
from torch import Tensor

from .inputs import as_labels, as_probs

_SMALLEST = torch.finfo(torch.float64).tiny
_MOST = 100.0  # a ticket without an error on its validation examples would have temperature 0


def temperature(probs_BC: Tensor, labels_B: Tensor) -> float:
    """Return the temperature T, in 0.01 to 100, at which `tempered` probabilities have the least NLL on these examples.

    Above 1 the prediction was too sure. NLL is convex in 1/T, so the least one is found. Raises ValueError as
    `inputs.as_probs` and `inputs.as_labels` do.
    """
    from scipy.optimize import minimize_scalar

    log_BC = as_probs(probs_BC, "BC").clamp(min=_SMALLEST).log()
    labels_B = as_labels(labels_B, probs_BC)
    log_label_B = log_BC.gather(1, labels_B[:, None])[:, 0]

    def loss(log_t: float) -> float:
        inverse = math.exp(-log_t)
        return float(((inverse * log_BC).logsumexp(1) - inverse * log_label_B).mean())

    bound = math.log(_MOST)
    return math.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-7}).x)


def tempered(probs_BC: Tensor, temperature: float) -> Tensor:
    """Return p^(1/T), normalised over the classes, [B, C] in float64. Raises ValueError unless T is positive and finite."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}, it must be positive and finite")
    return (as_probs(probs_BC, "BC").clamp(min=_SMALLEST).log() / temperature).softmax(1)
