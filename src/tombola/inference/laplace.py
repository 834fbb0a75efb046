"""Laplace's approximation: a Gaussian at the mode, by the curvature of the surviving weights.

Legend: P parameters, of which the first n are random; N training examples, T the temperature `heat`, s the prior's std.
"""

from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.posterior.batch import Batch, examples_of
from tombola.posterior.binding import buffers_of
from tombola.posterior.full import FullGaussian
from tombola.posterior.gaussian import Gaussian
from tombola.posterior.state import State
from tombola.settings import PosteriorSettings, TrainSettings
from tombola.streams import Name

from .curvature import check_likelihood, fisher_rows
from .learner import learned_of
from .penalised import Penalised


class Laplace(Penalised):
    """Trains the mode, then sets std^2 = 1 / (F / T + 1 / s^2), F the diagonal of the Fisher information of all examples.

    Of the two likelihoods that it knows, F is the generalised Gauss-Newton matrix (Martens 2020, section 9.2). A pass over
    the training set after the last step finds it, at the cost of about one epoch for each output; until then every std is
    what it was at the start. The diagonal of the precision leaves out correlations, so stds are too small where weights
    are correlated.
    """

    learns: ClassVar[str] = Gaussian.family

    def __init__(
        self, module: nn.Module, state: State, likelihood: nn.Module, settings: TrainSettings, examples: int, stream: Name
    ):
        check(settings)
        check_likelihood(likelihood, settings.method)
        super().__init__(module, state, likelihood, settings, examples, stream)
        self._take(state)

    @classmethod
    def start(cls, posterior: PosteriorSettings, settings: TrainSettings, examples: int) -> PosteriorSettings:
        check(settings)
        return posterior

    def _take(self, state: State) -> None:
        """Take the spread of a state."""
        q = Gaussian.of(state.posterior)
        self._log_std, self.prior_mean = q.log_std.clone(), q.prior_mean

    def end(self, batches: Iterable[Batch]) -> None:
        n = self.layout.random_numel
        total, seen = self.mean.new_zeros(n, dtype=torch.float64), 0
        for count, batch_rows in self._rows(batches):
            seen += count
            for rows in batch_rows:
                total += rows.double().square().sum(0)
        precision = total * (self.examples / seen / self.settings.heat) + self.settings.prior_std**-2
        self._log_std[:n] = -0.5 * precision.log()

    def _rows(self, batches: Iterable[Batch]) -> Iterator[tuple[int, Iterator[Tensor]]]:
        """Yield the number of examples and the Fisher rows of each batch, at the mode, in evaluation mode."""
        module = self.binding.module
        self.mean.mul_(self.mask)  # an optimiser's momentum moves pruned weights
        self.binding.wrote()
        module.eval()
        for batch in batches:
            yield examples_of(batch), fisher_rows(module, self.layout, self.mean, self.likelihood, batch)

    def state(self) -> State:
        posterior = Gaussian(self.layout, self.mean, self._log_std, self.mask, self.prior_mean).masked(self.mask)
        return State(posterior, buffers_of(self.binding.module), learned_of(self.likelihood))

    def restore(self, state: State) -> None:
        super().restore(state)
        self._take(state)


class LaplaceFull(Laplace):
    """The same with the whole matrix F: its inverse over the surviving random parameters, at most some thousands.

    With `posterior.random` the last layer's patterns it is the last-layer Laplace approximation (Daxberger et al. 2021).
    """

    learns: ClassVar[str] = FullGaussian.family

    def _take(self, state: State) -> None:
        self._root = FullGaussian.of(state.posterior).root.clone()

    def end(self, batches: Iterable[Batch]) -> None:
        alive = self.mask[: self.layout.random_numel].nonzero().squeeze(1)
        fisher, seen = self.mean.new_zeros(len(alive), len(alive), dtype=torch.float64), 0
        for count, batch_rows in self._rows(batches):
            seen += count
            for rows in batch_rows:
                few = rows[:, alive].double()
                fisher += few.T @ few
        unit = torch.eye(len(alive), dtype=torch.float64, device=fisher.device)
        precision = fisher * (self.examples / seen / self.settings.heat) + unit * self.settings.prior_std**-2
        lower = torch.linalg.cholesky(precision)
        root = torch.linalg.solve_triangular(lower.T, unit, upper=True)  # root root^T is the inverse of lower lower^T
        self._root.zero_()
        self._root[alive[:, None], alive] = root.to(self._root)

    def state(self) -> State:
        posterior = FullGaussian(self.layout, self.mask, self.mean, self._root).masked(self.mask)
        return State(posterior, buffers_of(self.binding.module), learned_of(self.likelihood))


def check(settings: TrainSettings) -> None:
    """Raise TombolaError for settings that the method cannot have."""
    if settings.heat == 0:
        raise TombolaError(
            f"train.heat is 0, but with method {settings.method} a std is in proportion to its root; set it above 0"
        )
