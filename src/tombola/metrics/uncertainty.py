"""Uncertainty of each example: the scores by which predictions are rejected and outliers found.

Legend: B examples, C classes, S weight samples.
"""

import torch
from torch import Tensor

from .inputs import as_probs


def uncertainties(probs_SBC: Tensor) -> dict[str, Tensor]:
    """Return each score by name, [B] in float64, higher where the prediction is less sure.

    confidence: 1 - max_c p_c of the averaged prediction. entropy: its entropy, in nats. information: mutual information of
    label and weights, in nats (Houlsby et al. 2011, eq. 2); left out for one weight sample, where it is 0 for all examples.
    Raises ValueError as `inputs.as_probs` does.
    """
    probs_SBC = as_probs(probs_SBC, "SBC")
    probs_BC = probs_SBC.mean(0)
    entropy_B = torch.special.entr(probs_BC).sum(-1)
    found = {"confidence": 1 - probs_BC.amax(1), "entropy": entropy_B}
    if len(probs_SBC) > 1:
        expected_B = torch.special.entr(probs_SBC).sum(-1).mean(0)
        found["information"] = (entropy_B - expected_B).clamp(min=0)
    return found
