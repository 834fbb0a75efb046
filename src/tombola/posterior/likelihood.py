"""p(target | output of the network), as modules so that what they learn (a noise scale) is part of the state.

Legend: B examples, C classes.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TombolaError


class Categorical(nn.Module):
    """Classes from logits."""

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits_BC: Tensor, labels_B: Tensor) -> Tensor:
        """Log likelihood of each example, [B], in nats. With label smoothing e the target is (1 - e) one-hot + e / C."""
        logits_BC = logits_BC if logits_BC.dtype == torch.float64 else logits_BC.float()  # bf16 would round the loss
        return -F.cross_entropy(logits_BC, labels_B, reduction="none", label_smoothing=self.label_smoothing)

    def predict(self, logits: Tensor) -> Tensor:
        """Class probabilities, float64, over the last dimension."""
        return logits.double().softmax(-1)


class GaussianNoise(nn.Module):
    """Real targets with Gaussian noise of one standard deviation, known or learned."""

    def __init__(self, noise_std: float = 1.0, learn_noise: bool = False):
        super().__init__()
        if noise_std <= 0:
            raise TombolaError(f"noise_std is {noise_std}; it must be above 0")
        self.log_noise = nn.Parameter(torch.tensor(math.log(noise_std)), requires_grad=learn_noise)

    @property
    def noise_std(self) -> float:
        return math.exp(self.log_noise.item())

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Log density of each example, [B], in nats, summed over the target's dimensions."""
        target = target.view_as(output)
        residual = (target - output) * torch.exp(-self.log_noise)
        log_density = -0.5 * residual.square() - self.log_noise - 0.5 * math.log(2 * math.pi)
        return log_density.reshape(len(log_density), -1).sum(1)  # outputs [B] too

    def predict(self, output: Tensor) -> Tensor:
        """The mean of the target, float64."""
        return output.double()


LIKELIHOODS: dict[str, Callable[..., Any]] = {"categorical": Categorical, "gaussian": GaussianNoise}
