"""Variational inference with other priors than one Gaussian: Laplace, spike and slab, a learned std for each tensor.

Each replaces the cross entropy -E_q[log p(w)] in the gradients of `VI`; the entropy of q is the same. Legend: n random
parameters, s = prior_std; mean, std: of q, [n], 0 where masked.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor

from tombola import streams
from tombola.errors import TombolaError
from tombola.posterior.batch import Batch
from tombola.settings import PosteriorSettings, TrainSettings

from .penalised import check_zero_mean, refuse
from .vi import VI

Slopes = tuple[Tensor, Tensor]
"""Derivatives of the cross entropy by mean and by std, each [n]."""


class OtherPrior(VI):
    """VI with another prior, about zero: a subclass gives the derivatives of its cross entropy."""

    @classmethod
    def start(cls, posterior: PosteriorSettings, settings: TrainSettings, examples: int) -> PosteriorSettings:
        refuse(settings, "cuda_graphs")
        check_zero_mean(posterior, settings)
        return posterior

    def cross_entropy(self, mean: Tensor, std: Tensor, step: int) -> Slopes:
        """Return the derivatives of -E_q[log p(w)]. step: names a draw."""
        raise NotImplementedError

    def gradients(self, batch: Batch, step: int, kl_factor: float | Tensor = 1.0) -> Tensor:
        if self._prior_mean is not None:
            raise TombolaError(f"method {self.settings.method} has a prior about zero; set posterior.prior_mean: zero")
        loss = super().gradients(batch, step, kl_factor)
        n, weight = self.layout.random_numel, kl_factor * self.kl_weight
        mean, std, precision = self.mean[:n], self.sample.std, self.settings.prior_std**-2
        by_mean, by_std = self.cross_entropy(mean, std, step)
        keep = self.mask[:n]
        self.sample.mean_grad[:n] += weight * keep * (by_mean - mean * precision)  # less the Gaussian's, which is in them
        self.sample.log_std_grad[:n] += weight * keep * std * (by_std - std * precision)
        return loss


class LaplacePrior(OtherPrior):
    """VI with the prior exp(-abs(w) / b) / (2 b) of std s, b = s / sqrt(2), whose cross entropy is log(2 b) + E abs(w) / b.

    With r = mean / std, the derivatives of E abs(w) are erf(r / sqrt(2)) and sqrt(2 / pi) exp(-r^2 / 2).
    """

    def cross_entropy(self, mean: Tensor, std: Tensor, step: int) -> Slopes:
        scale = math.sqrt(2) / self.settings.prior_std
        by_mean, by_std = folded_slopes(mean, std)
        return scale * by_mean, scale * by_std


class MixturePrior(OtherPrior):
    """VI with spike and slab, `slab` N(0, s^2) + (1 - slab) N(0, spike_std^2) (Blundell et al. 2015, equation 7).

    The cross entropy has no closed form: its derivatives are those at one draw of w a step, which is not the data term's.
    """

    def cross_entropy(self, mean: Tensor, std: Tensor, step: int) -> Slopes:
        generator = streams.generator("prior", *self._stream, step, device=mean.device)
        eps = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        settings = self.settings
        slope = mixture_slope(torch.addcmul(mean, std, eps), settings.slab, settings.prior_std, settings.spike_std)
        return slope, slope * eps


class LayerPrior(OtherPrior):
    """VI with N(0, s_l^2) for each parameter tensor l, s_l learned by type II maximum likelihood.

    The s_l that minimises the KL term is the root of the mean of mean^2 + std^2 over the tensor's survivors: each step takes
    it. By the envelope theorem the derivatives at fixed s_l are those of the minimum. `prior_std` is not read.
    """

    _smallest: ClassVar[float] = 1e-6

    def cross_entropy(self, mean: Tensor, std: Tensor, step: int) -> Slopes:
        precision = torch.ones_like(mean)
        for segment in self.layout.segments:
            if segment.random:
                where = segment.slice
                second = (mean[where].square() + std[where].square()).sum() / self.mask[where].sum().clamp(min=1)
                precision[where] = 1 / second.clamp(min=self._smallest**2)
        return mean * precision, std * precision


def folded_slopes(mean: Tensor, std: Tensor) -> Slopes:
    """Return the derivatives of E abs(w), w ~ N(mean, std^2), by mean and std; sign(mean) and 0 where std is 0."""
    ratio = mean / std.clamp(min=torch.finfo(std.dtype).tiny)
    return torch.erf(ratio / math.sqrt(2)), math.sqrt(2 / math.pi) * torch.exp(-0.5 * ratio.square()) * (std > 0)


def mixture_slope(w: Tensor, slab: float, slab_std: float, spike_std: float) -> Tensor:
    """Return the derivative of -log(slab N(w; 0, slab_std^2) + (1 - slab) N(w; 0, spike_std^2)) by w."""
    odds = math.log(slab / (1 - slab)) - math.log(slab_std / spike_std)
    of_slab = torch.sigmoid(odds + 0.5 * w.square() * (spike_std**-2 - slab_std**-2))  # posterior probability of the slab
    return w * (of_slab * slab_std**-2 + (1 - of_slab) * spike_std**-2)
