"""Deep ensembles (Lakshminarayanan et al. 2017): networks from different starts, as one posterior of points.

Legend: P parameters of the layout, K members.
"""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.posterior.batch import Batch
from tombola.posterior.binding import buffers_of, load_buffers
from tombola.posterior.point import Point
from tombola.posterior.samples import Samples
from tombola.posterior.state import State
from tombola.settings import PosteriorSettings, TrainSettings
from tombola.streams import Name

from .learner import learned_of, slice_with_grad
from .penalised import Penalised, check_zero_mean, refuse


class Ensemble(Penalised):
    """Trains K = `train.keep` networks under one mask, each to a mode of its own, on the same batches.

    Each has a start of its own, to which it is rewound. A step costs K passes in the memory of one.
    """

    learns: ClassVar[str] = Samples.family

    def __init__(
        self, module: nn.Module, state: State, likelihood: nn.Module, settings: TrainSettings, examples: int, stream: Name
    ):
        refuse(settings, "cuda_graphs")
        q = Samples.of(state.posterior)
        if len(q.kept) != settings.keep:
            raise TombolaError(
                f"train.keep is {settings.keep}, but the state has {len(q.kept)} networks to start from; draw them by "
                f"PosteriorSettings(members={settings.keep})"
            )
        first = replace(state, posterior=Point(q.layout, q.kept[0], q.mask))
        super().__init__(module, first, likelihood, settings, examples, stream)
        self._members, self._grads = q.kept.clone(), torch.zeros_like(q.kept)

    @classmethod
    def start(cls, posterior: PosteriorSettings, settings: TrainSettings, examples: int) -> PosteriorSettings:
        refuse(settings, "cuda_graphs")
        check_zero_mean(posterior, settings)
        if settings.keep < 2:
            raise TombolaError(f"train.keep is {settings.keep}, but an ensemble needs two networks; raise it to 2 or more")
        return replace(posterior, members=settings.keep)

    def groups(self) -> list[dict]:
        return [
            {"params": [slice_with_grad(member, grad, where)], "factor": 1.0, "decayed": decayed}
            for member, grad in zip(self._members, self._grads, strict=True)
            for where, decayed in self.layout.decay_groups()
        ]

    def gradients(self, batch: Batch, step: int, kl_factor: float | Tensor = 1.0) -> Tensor:
        """Set the gradients of all members; return their average loss. Running statistics are the first one's."""
        module, total = self.binding.module, torch.zeros((), device=self.mean.device)
        for k, (member, grad) in enumerate(zip(self._members, self._grads, strict=True)):
            torch.mul(member, self.mask, out=member)
            self.mean.copy_(member)
            total += super().gradients(batch, step, kl_factor) / len(self._members)
            grad.copy_(self._grad)
            if k == 0:
                buffers = buffers_of(module)
        load_buffers(module, buffers)
        return total

    def show_mean(self) -> None:
        """Show the first member: the mean of several modes is no network."""
        torch.mul(self._members[0], self.mask, out=self.mean)
        self.binding.wrote()

    def state(self) -> State:
        posterior = Samples(self.layout, self.mask, self._members[0], self._members).masked(self.mask)
        return State(posterior, buffers_of(self.binding.module), learned_of(self.likelihood))

    def restore(self, state: State) -> None:
        q = Samples.of(state.posterior)
        self._members.copy_(q.kept)
        load_buffers(self.binding.module, state.buffers)
        self.likelihood.load_state_dict(state.likelihood)
