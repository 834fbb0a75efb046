"""MC dropout (Gal & Ghahramani 2016): dropout in training and in predictions, as a distribution over weights."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from tombola import streams
from tombola.posterior.batch import Batch
from tombola.posterior.binding import buffers_of
from tombola.posterior.dropout import Dropout, dropped, factors
from tombola.posterior.state import State
from tombola.settings import PosteriorSettings, TrainSettings
from tombola.streams import Name

from .learner import learned_of, slice_with_grad
from .penalised import Penalised, check_zero_mean, refuse


class MCDropout(Penalised):
    """Minimises E_z[-log p(batch)] + heat / N * KL over M, one draw of z a step for the whole batch.

    The KL term is the paper's, of the mean M: the squared weights over 2 prior_std^2, divided by 1 - `dropout` where inputs
    are dropped. Any network can have it; dropout layers of the network's own act in training alone, as ever.
    """

    learns: ClassVar[str] = Dropout.family

    def __init__(
        self, module: nn.Module, state: State, likelihood: nn.Module, settings: TrainSettings, examples: int, stream: Name
    ):
        refuse(settings, "cuda_graphs")
        super().__init__(module, state, likelihood, settings, examples, stream)
        self._learned, self._mean_grad = self.mean.clone(), torch.zeros_like(self.mean)  # `mean` is what the module shows
        self._dropped = dropped(self.layout).to(self.mean.device)
        self._inverse = torch.where(self._dropped, 1 / (1 - settings.dropout), 1.0).to(self.mean)

    @classmethod
    def start(cls, posterior: PosteriorSettings, settings: TrainSettings, examples: int) -> PosteriorSettings:
        refuse(settings, "cuda_graphs")
        check_zero_mean(posterior, settings)
        return posterior

    def groups(self) -> list[dict]:
        return [
            {"params": [slice_with_grad(self._learned, self._mean_grad, where)], "factor": 1.0, "decayed": decayed}
            for where, decayed in self.layout.decay_groups()
        ]

    def gradients(self, batch: Batch, step: int, kl_factor: float | Tensor = 1.0) -> Tensor:
        device = self.mean.device
        z = factors(self.layout, self.settings.dropout, streams.generator("noise", *self.stream, step, device=device))
        self._learned.mul_(self.mask)  # an optimiser's momentum moves pruned weights
        torch.mul(self._learned, z, out=self.mean)
        self.binding.wrote()
        loss = self._data_term.backward(batch, self._grad, self._scale)
        torch.mul(self._grad, z * self.mask, out=self._mean_grad)
        self.add_prior(self._mean_grad, self._learned * self._inverse, kl_factor)
        return loss

    def show_mean(self) -> None:
        torch.mul(self._learned, self.mask, out=self.mean)
        self.binding.wrote()

    def state(self) -> State:
        rate = self.mean.new_tensor(self.settings.dropout)
        posterior = Dropout(self.layout, self.mask, self._learned, rate).masked(self.mask)
        return State(posterior, buffers_of(self.binding.module), learned_of(self.likelihood))

    def restore(self, state: State) -> None:
        super().restore(state)
        self._learned.copy_(self.mean)
