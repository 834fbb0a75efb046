"""Minimisation of the negative log posterior: what a sampler's drift, SWAG, Laplace and an ensemble's members have alike."""

from torch import Tensor, nn

from tombola.errors import TombolaError
from tombola.posterior.batch import Batch
from tombola.posterior.state import State
from tombola.settings import PosteriorSettings, TrainSettings
from tombola.streams import Name

from .map import Map


class Penalised(Map):
    """Minimises U / N times heat, of which the posterior is exp(-U): -log p(data) / heat - log prior, N examples.

    That is the mean negative log likelihood plus heat / (2 N prior_std^2) times the squared random parameters, so `heat` and
    `prior_std` mean what they mean for `vi`: p(data | w)^(1 / heat) times the prior. Deterministic parameters have none.
    """

    def __init__(
        self, module: nn.Module, state: State, likelihood: nn.Module, settings: TrainSettings, examples: int, stream: Name
    ):
        super().__init__(module, state, likelihood, settings, examples, stream)
        self.settings, self.examples, self.stream = settings, examples, stream
        self.prior_mean: Tensor | None = None

    def gradients(self, batch: Batch, step: int, kl_factor: float | Tensor = 1.0) -> Tensor:
        loss = super().gradients(batch, step, kl_factor)
        self.add_prior(self._grad, self.mean, kl_factor)
        return loss

    def add_prior(self, grad: Tensor, values: Tensor, kl_factor: float | Tensor) -> None:
        """Add the prior's part to `grad` at `values` [P], which are 0 where masked."""
        n = self.layout.random_numel
        away = values[:n] if self.prior_mean is None else values[:n] - self.prior_mean[:n]
        grad[:n] += away * (kl_factor * self.settings.heat * self._scale / (self.examples * self.settings.prior_std**2))


def refuse(settings: TrainSettings, *names: str) -> None:
    """Raise TombolaError where one of the settings `names` is not at its default, which the method cannot read."""
    plain = TrainSettings()
    for name in names:
        if (value := getattr(settings, name)) != getattr(plain, name):
            raise TombolaError(f"train.{name} is {value!r}, which method {settings.method} cannot have; leave it out")


def check_zero_mean(posterior: PosteriorSettings, settings: TrainSettings) -> None:
    """Raise TombolaError for a prior about another mean than 0."""
    if posterior.prior_mean != "zero":
        raise TombolaError(
            f"posterior.prior_mean is {posterior.prior_mean!r}, but the prior of method {settings.method} is about zero; "
            "leave it out"
        )
