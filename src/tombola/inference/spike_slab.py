"""Stochastic-gradient Hamiltonian Monte Carlo under a spike-and-slab prior: samples whose weights are near 0 or free."""

from torch import Tensor

from .langevin import SGHMC
from .priors import mixture_slope


class SpikeSlab(SGHMC):
    """SGHMC with the prior `slab` N(0, prior_std^2) + (1 - slab) N(0, spike_std^2) of each random parameter.

    It is the prior of `vi_mixture` (Blundell et al. 2015, equation 7), whose slope is exact at a sample. The spike has the
    curvature heat / (N spike_std^2), so `lr` must be well below N spike_std^2 / heat.
    """

    def add_prior(self, grad: Tensor, values: Tensor, kl_factor: float | Tensor) -> None:
        n, own = self.layout.random_numel, self.settings
        slope = mixture_slope(values[:n], own.slab, own.prior_std, own.spike_std)  # 0 at 0, so also where masked
        grad[:n] += slope * (kl_factor * own.heat * self._scale / self.examples)
