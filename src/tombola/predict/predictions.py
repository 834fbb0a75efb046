"""Predictions of a batch with their uncertainty: of classes, and of real targets.

Legend: B examples, C classes, S weight samples, D outputs of a regression.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Union

import torch
from torch import Tensor

from .abstention import Abstention

_HALVINGS = 60
"""Steps of bisection: an interval's end is then exact to float64 within 1e-15 of its bracket."""
LEVEL = 0.9
"""Probability of a regression's interval."""


@dataclass(frozen=True)
class ClassPrediction:
    """Class probabilities of a batch, in float64 on the CPU; uncertainty in nats."""

    probs: Tensor
    """Class probabilities averaged over the weights, [B, C]."""
    epistemic: Tensor
    """Mutual information of class and weights, [B] (Houlsby et al. 2011); NaN of the mean weights alone, which have none."""
    aleatoric: Tensor
    """Expected entropy given the weights, [B]; with `epistemic` the entropy of `probs`."""
    classes: tuple[str, ...]
    abstention: Abstention | None = None

    def __len__(self) -> int:
        return len(self.probs)

    @property
    def labels(self) -> Tensor:
        """Number of the most probable class, [B]."""
        return self.probs.argmax(1)

    @property
    def names(self) -> list[str]:
        """Name of the most probable class of each example."""
        return [self.classes[i] for i in self.labels.tolist()]

    @property
    def confidence(self) -> Tensor:
        """Probability of the most probable class, [B]."""
        return self.probs.amax(1)

    @property
    def abstained(self) -> Tensor:
        """True where the confidence is below the threshold of the abstention, bool [B]."""
        if self.abstention is None:
            return torch.zeros(len(self), dtype=torch.bool)
        return ~self.abstention.accepts(self.confidence)

    def columns(self) -> dict[str, list[Any]]:
        """Return the predictions as a table: class, probability, epistemic, aleatoric; abstained where that was asked."""
        found: dict[str, list[Any]] = {"class": self.names, "probability": self.confidence.tolist()}
        found |= _known({"epistemic": self.epistemic, "aleatoric": self.aleatoric})
        return found | ({} if self.abstention is None else {"abstained": self.abstained.tolist()})


@dataclass(frozen=True)
class RealPrediction:
    """Predictive distribution of real targets of a batch, each [B, D] in float64 on the CPU, in the target's unit."""

    mean: Tensor
    epistemic: Tensor
    """Standard deviation of the target's mean over the weights; NaN of the mean weights alone."""
    aleatoric: Tensor
    """Standard deviation of the noise."""
    low: Tensor
    """Lower end of the central 90% interval: the 5% quantile of the mixture over the weights."""
    high: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def std(self) -> Tensor:
        """Standard deviation of the prediction: of the weights and the noise."""
        return (self.epistemic.nan_to_num(0.0).square() + self.aleatoric.square()).sqrt()

    def columns(self) -> dict[str, list[Any]]:
        """Return the predictions as a table; with several outputs each name has a number."""
        parts = _known({name: getattr(self, name) for name in ("mean", "std", "epistemic", "aleatoric", "low", "high")})
        if self.mean.shape[1] == 1:
            return {name: [row[0] for row in values] for name, values in parts.items()}
        count = range(self.mean.shape[1])
        return {f"{name}_{i}": [row[i] for row in values] for name, values in parts.items() for i in count}


Predictions = Union[ClassPrediction, RealPrediction]  # noqa: UP007 - a name for both, also in docs


def of_classes(logits_SBC: Tensor, classes: tuple[str, ...], abstention: Abstention | None, alone: bool) -> ClassPrediction:
    """Return the prediction from logits at S weight samples. alone: they are of the mean weights."""
    probs_SBC = logits_SBC.cpu().double().softmax(-1)
    probs = probs_SBC.mean(0)
    aleatoric = torch.special.entr(probs_SBC).sum(-1).mean(0)
    total = torch.special.entr(probs).sum(-1)
    epistemic = torch.full_like(total, torch.nan) if alone else (total - aleatoric).clamp(min=0)
    return ClassPrediction(probs, epistemic, aleatoric, classes, abstention)


def of_reals(means_SBD: Tensor, noise_std: float, alone: bool) -> RealPrediction:
    """Return the prediction from a regression's outputs at S weight samples: a mixture of S normals a target."""
    means = means_SBD.cpu().double().flatten(2) if means_SBD.ndim > 2 else means_SBD.cpu().double()[..., None]
    mean = means.mean(0)
    epistemic = torch.full_like(mean, torch.nan) if alone else means.std(0, correction=0)
    noise = torch.full_like(mean, noise_std)

    def cdf(y: Tensor) -> Tensor:
        return torch.special.ndtr((y - means) / noise_std).mean(0)

    reach = 4 * noise_std  # the quantiles of each normal lie within
    low, high = (quantile(cdf, q, means.amin(0) - reach, means.amax(0) + reach) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return RealPrediction(mean, epistemic, noise, low, high)


def quantile(cdf: Callable[[Tensor], Tensor], q: float, low: Tensor, high: Tensor) -> Tensor:
    """Return where an increasing function is q, between `low` and `high`, by bisection."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = cdf(middle) < q
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def _known(parts: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Return the parts as lists, without the ones that are not known (NaN)."""
    return {name: values.tolist() for name, values in parts.items() if not bool(values.isnan().any())}
