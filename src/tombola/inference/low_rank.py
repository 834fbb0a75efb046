"""Variational inference with a Gaussian of low rank plus diagonal: `rank` more vectors for correlations."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from tombola import streams
from tombola.errors import TombolaError
from tombola.posterior.batch import Batch
from tombola.posterior.binding import buffers_of, load_buffers
from tombola.posterior.low_rank import LowRank, kl_slopes
from tombola.posterior.state import State
from tombola.settings import PosteriorSettings, TrainSettings
from tombola.streams import Name

from .learner import learned_of, slice_with_grad
from .map import Map
from .penalised import check_zero_mean, refuse

_SHARE = 0.1  # of a parameter's variance that the factor has at first: at 0 it would stay there


class LowRankVI(Map):
    """Minimises the loss of `vi` over N(mean, diag(std^2) + factor^T factor), one weight sample at a time.

    A sample is mean + std * eps + z factor; with g = d loss / d sample the gradients are g, g * eps * std (by log std) and
    z^T g (by factor), plus those of the KL term in closed form (Ong et al. 2018, section 3).
    """

    learns: ClassVar[str] = LowRank.family

    def __init__(
        self, module: nn.Module, state: State, likelihood: nn.Module, settings: TrainSettings, examples: int, stream: Name
    ):
        refuse(settings, *_UNREAD)
        q = LowRank.of(state.posterior)
        super().__init__(module, state, likelihood, settings, examples, stream)
        self.settings, self.stream, self._n = settings, stream, q.layout.random_numel
        self._kl_weight = settings.heat * self._scale / examples
        self._learned, self._log_std = self.mean.clone(), q.log_std[: self._n].clone()  # `mean` is what the module shows
        self._kept = q.mask[: self._n].to(self.mean.dtype)
        self._factor = (q.factor if len(q.factor) else self._first_factor(q))[:, : self._n].clone()
        if len(self._factor) != settings.rank:
            raise TombolaError(
                f"train.rank is {settings.rank}, the state has a factor of rank {len(self._factor)}; give that"
            )
        self._grads = [torch.zeros_like(own) for own in (self._learned, self._log_std, self._factor)]

    @classmethod
    def start(cls, posterior: PosteriorSettings, settings: TrainSettings, examples: int) -> PosteriorSettings:
        refuse(settings, *_UNREAD)
        check_zero_mean(posterior, settings)
        return posterior

    def groups(self) -> list[dict]:
        of_mean, of_log_std, of_factor = self._grads
        groups = [
            {"params": [slice_with_grad(self._learned, of_mean, where)], "factor": 1.0, "decayed": decayed}
            for where, decayed in self.layout.decay_groups()
        ]
        log_std = slice_with_grad(self._log_std, of_log_std, slice(None))
        factor = slice_with_grad(self._factor.view(-1), of_factor.view(-1), slice(None))
        factors = (log_std, self.settings.log_std_lr_factor), (factor, 1.0)
        return [*groups, *({"params": [one], "factor": by, "decayed": False} for one, by in factors)]

    def gradients(self, batch: Batch, step: int, kl_factor: float | Tensor = 1.0) -> Tensor:
        n, samples, (of_mean, of_log_std, of_factor) = self._n, self.settings.samples, self._grads
        self._learned.mul_(self.mask)  # an optimiser's momentum moves pruned weights
        self._factor.mul_(self._kept)
        std, total = self._log_std.exp(), self.mean.new_zeros(())
        kl = kl_slopes(self._learned[:n], std, self._factor, self.settings.prior_std)
        for grad, slope in zip((of_mean[:n], of_log_std, of_factor), kl, strict=True):
            torch.mul(slope, kl_factor * self._kl_weight, out=grad)
        of_mean[n:] = 0
        for s in range(samples):
            generator = streams.generator("noise", *self.stream, step * samples + s, device=std.device)
            eps, z = torch.randn(n + len(self._factor), generator=generator, dtype=std.dtype, device=std.device).split(
                [n, len(self._factor)]
            )
            self.mean.copy_(self._learned)
            self.mean[:n] += std * self._kept * eps + z @ self._factor
            self.binding.wrote()
            total = total + self._data_term.backward(batch, self._grad, self._scale / samples) / samples
            of_mean += self._grad
            of_log_std += self._grad[:n] * eps * std
            of_factor += torch.outer(z, self._grad[:n])
            if s == 0 and samples > 1:
                buffers = buffers_of(self.binding.module)  # running statistics move once a step
        if samples > 1:
            load_buffers(self.binding.module, buffers)
        of_mean *= self.mask
        of_log_std *= self._kept
        of_factor *= self._kept
        return total

    def show_mean(self) -> None:
        torch.mul(self._learned, self.mask, out=self.mean)
        self.binding.wrote()

    def state(self) -> State:
        rest = self.mean.numel() - self._n
        log_std, factor = (nn.functional.pad(one, (0, rest)) for one in (self._log_std, self._factor))
        posterior = LowRank(self.layout, self.mask, self._learned, log_std, factor).masked(self.mask)
        return State(posterior, buffers_of(self.binding.module), learned_of(self.likelihood))

    def restore(self, state: State) -> None:
        super().restore(state)
        q = LowRank.of(state.posterior)
        self._learned.copy_(q.mean)
        self._log_std.copy_(q.log_std[: self._n])
        self._factor.copy_(q.factor[:, : self._n])

    def _first_factor(self, q: LowRank) -> Tensor:
        """Return random rows [rank, P] that have `_SHARE` of the variance in sum."""
        generator = streams.generator("factor", *self.stream)  # of the training: arms with one start may differ by rank
        drawn = torch.randn(self.settings.rank, len(q.mean), generator=generator).to(q.mean)
        return drawn * (_SHARE / self.settings.rank) ** 0.5 * q.std


_UNREAD = ("estimator", "objective", "cuda_graphs")
