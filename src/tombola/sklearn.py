"""scikit-learn estimators: a sparse Bayesian network, found by iterative pruning, behind fit and predict.

Legend: N rows, F features, C classes.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from tombola import models
from tombola.errors import TombolaError
from tombola.predict import ClassPrediction, Predictive, RealPrediction
from tombola.pruning.ticket import Ticket
from tombola.settings import PosteriorSettings, PruneSettings, TrainSettings
from tombola.training.find import find_tickets

_NOISE = 0.5  # of standardised targets, where learning starts


class _TicketEstimator(BaseEstimator):
    """Settings and training of both estimators."""

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (100,),
        *,
        density: float = 0.1,
        levels: int = 4,
        epochs: int = 20,
        batch_size: int = 32,
        learning_rate: float = 0.01,
        heat: float = 0.1,
        std: float = 0.05,
        pruning_score: str = "snr",
        samples: int = 16,
        model: Callable[[int, int], nn.Module] | None = None,
        random_state: Any = None,
    ):
        """Take settings.

        hidden_layer_sizes: neurons of each hidden layer of the network.
        density: share of its prunable weights (all but biases and the last layer) left at the end; 1: none is pruned.
        levels: prunings on the way there, each of the same fraction and each followed by a training from the start.
        epochs, batch_size, learning_rate, heat: of each training, as in `TrainSettings`.
        std: standard deviation of the weights at the start. pruning_score: as `PruneSettings.score`.
        samples: weight samples of a prediction.
        model: function (features, outputs) -> network, in place of the hidden layers; one at module level can be pickled.
        random_state: seed of start, order and noise, or a `numpy.random.RandomState`; None draws one.
        """
        self.hidden_layer_sizes = hidden_layer_sizes
        self.density = density
        self.levels = levels
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.heat = heat
        self.std = std
        self.pruning_score = pruning_score
        self.samples = samples
        self.model = model
        self.random_state = random_state

    def _fit(self, x: NDArray[Any], targets: Tensor, outputs: int, **likelihood: Any) -> None:
        """Find the ticket; set `ticket_`, `module_`, `mean_` and `scale_` [F], by which inputs are standardised."""
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        self.mean_, self.scale_ = _moments(x)
        self.module_ = self._network(x.shape[1], outputs, seed)
        train = TrainSettings(
            epochs=self.epochs, batch_size=self.batch_size, lr=self.learning_rate, heat=self.heat, **likelihood
        )
        self.ticket_: Ticket = find_tickets(
            self.module_,
            (self._inputs(x), targets),
            train=train,
            prune=self._pruning(),
            posterior=PosteriorSettings(std=self.std),
            seed=seed,
            progress=False,
        )[-1]

    def _network(self, features: int, outputs: int, seed: int) -> nn.Module:
        if self.model is None:
            hidden = {"hidden": tuple(self.hidden_layer_sizes)}
            return models.build("mlp", hidden, (features,), outputs, ("sklearn", seed))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.model(features, outputs)

    def _pruning(self) -> PruneSettings:
        """Return `levels` prunings that leave `density` in the end. Raises TombolaError for values out of bounds."""
        if not 0 < self.density <= 1:
            raise TombolaError(f"density is {self.density}; it must be above 0 and at most 1")
        if self.density == 1:
            return PruneSettings(levels=0)
        if not isinstance(self.levels, int | np.integer) or self.levels < 1:
            raise TombolaError(f"levels is {self.levels!r}; it must be a whole number, at least 1, or density 1")
        fraction = 1 - self.density ** (1 / self.levels)
        return PruneSettings(score=self.pruning_score, fraction=fraction, levels=int(self.levels))

    def _inputs(self, x: NDArray[Any]) -> Tensor:
        return torch.from_numpy(((x - self.mean_) / self.scale_).astype(np.float32))

    def _predicted(self, x: ArrayLike) -> Any:
        """Return the prediction. Raises sklearn's NotFittedError before fit, and ValueError for other features."""
        check_is_fitted(self, "ticket_")
        rows = validate_data(self, x, reset=False, dtype=np.float64)
        return Predictive(self.ticket_, self.module_, samples=self.samples)(self._inputs(rows))


class BayesianTicketClassifier(ClassifierMixin, _TicketEstimator):
    """Classifier by a sparse Bayesian network.

    Inputs are standardised. After `fit`: `classes_` [C], `ticket_` (a `Ticket`, with `density` and `save`), `module_`.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> "BayesianTicketClassifier":
        """Fit to X [N, F] and class labels y [N]. Raises TombolaError (a ValueError) for settings out of bounds."""
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise TombolaError(f"y has one class, {self.classes_[0]!r}; give examples of at least two")
        self._fit(rows, torch.from_numpy(numbers).long(), len(self.classes_))
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each row, [N]."""
        labels = self.uncertainty(X).labels.numpy()
        return self.classes_[labels]

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return class probabilities averaged over the weight samples, [N, C], classes as in `classes_`."""
        return self.uncertainty(X).probs.numpy()

    def uncertainty(self, X: ArrayLike) -> ClassPrediction:
        """Return the whole prediction, with its epistemic and aleatoric parts in nats."""
        return self._predicted(X)


class BayesianTicketRegressor(RegressorMixin, _TicketEstimator):
    """Regressor by a sparse Bayesian network with Gaussian noise, whose standard deviation is learned.

    Inputs and targets are standardised. After `fit`: `ticket_` (a `Ticket` of the standardised targets), `module_`.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> "BayesianTicketRegressor":
        """Fit to X [N, F] and real targets y [N]. Raises TombolaError (a ValueError) for settings out of bounds."""
        rows, targets = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        mean, scale = _moments(np.asarray(targets, np.float64)[:, None])
        self.target_mean_, self.target_scale_ = mean.item(), scale.item()
        standard = torch.from_numpy(((targets - self.target_mean_) / self.target_scale_).astype(np.float32))[:, None]
        self._fit(rows, standard, 1, likelihood="gaussian", noise_std=_NOISE, learn_noise=True)
        return self

    @overload
    def predict(self, X: ArrayLike, return_std: Literal[False] = False) -> NDArray[np.float64]: ...
    @overload
    def predict(self, X: ArrayLike, return_std: Literal[True]) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Return the mean of each row's target, [N]; with `return_std` also its standard deviation, of weights and noise."""
        found = self._predicted(X)
        mean = self.target_mean_ + self.target_scale_ * found.mean[:, 0].numpy()
        return (mean, self.target_scale_ * found.std[:, 0].numpy()) if return_std else mean

    def predict_interval(self, X: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lower and the upper end of each row's central 90% interval, [N] each."""
        found: RealPrediction = self._predicted(X)
        low, high = (self.target_mean_ + self.target_scale_ * end[:, 0].numpy() for end in (found.low, found.high))
        return low, high


def _moments(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return mean and standard deviation of each column; 1 for a constant one."""
    std = values.std(0)
    return values.mean(0), np.where(std > 0, std, 1.0)
