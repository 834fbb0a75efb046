"""Sparse variational dropout: variational inference with the log-uniform prior, which draws useless weights to 0.

Molchanov et al. 2017, "Variational Dropout Sparsifies Deep Neural Networks". Legend: n random parameters.
"""

import torch
from torch import Tensor

from .priors import OtherPrior, Slopes

K1, K2, K3 = 0.63576, 1.87320, 1.48695
"""Constants of the fit to the KL term (equation 14)."""


class VariationalDropout(OtherPrior):
    """VI with the improper prior p(abs(w)) proportional to 1 / abs(w); `prior_std` is not read.

    The KL term is the paper's fit, a function of alpha = std^2 / mean^2 alone. Tickets are pruned by `snr`, which ranks as
    alpha does.
    """

    def cross_entropy(self, mean: Tensor, std: Tensor, step: int) -> Slopes:
        return log_uniform_slopes(mean, std)


def log_uniform_slopes(mean: Tensor, std: Tensor) -> Slopes:
    """Return the derivatives by mean and std, each [n], of KL + log(std), the KL term being the paper's equation 14.

    With l = log alpha, KL = -K1 sigmoid(K2 + K3 l) + log(1 + 1 / alpha) / 2 + K1. Both are 0 where mean and std are.
    """
    tiny = torch.finfo(mean.dtype).tiny ** 0.5
    size, wide = mean.abs().clamp(min=tiny), std.clamp(min=tiny)
    gate = torch.sigmoid(K2 + 2 * K3 * (wide.log() - size.log()))
    bend = 2 * K1 * K3 * gate * (1 - gate)
    second = (size.square() + wide.square()).reciprocal()
    return mean * second + bend * mean.sign() / size, std * second - bend / wide * (std > 0)
