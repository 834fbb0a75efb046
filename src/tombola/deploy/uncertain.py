"""Predictions with their uncertainty: from moments, and from compiled weight samples.

Legend: B examples, C classes, S samples.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from tombola import streams
from tombola.errors import TombolaError
from tombola.posterior.predictive import Prediction, classes_of

from .graph import Graph, evaluated

if TYPE_CHECKING:
    from .predictor import Predictor


class DensePredictor:
    """A graph whose operations torch computes, for which numba need not be installed."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self._last = {name: node.name for node in graph.nodes.values() for name in node.inputs()}

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs, [B, ...]."""
        values: dict[str, Any] = {self.graph.input: x}
        with torch.inference_mode():
            for node in self.graph.nodes.values():
                values[node.name] = evaluated(node.apart or node, values)
                for name in node.inputs():
                    if self._last[name] == node.name:  # read for the last time
                        values.pop(name, None)
        found: Tensor = values[self.graph.output]
        return found


class Moments:
    """Mean and variance of a network's outputs under its posterior, in one pass: `moments(x)` is both, each [B, C]."""

    def __init__(self, predictor: "Predictor | DensePredictor"):
        self.predictor = predictor
        """Predictor of means and variances, [B, 2, C]; with numba its `summary()` lists the layers."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the outputs for a float32 CPU tensor [B, ...]."""
        mean, variance = self.predictor(x).unbind(1)
        return mean, variance

    def predict(
        self, x: Tensor, *, link: Literal["sampled", "probit"] = "sampled", samples: int = 512, seed: int = 0
    ) -> Tensor:
        """Return class probabilities [B, C] in float64.

        link: `sampled`, the average softmax of `samples` normal logits, whose noise depends on `seed` alone; or `probit`,
            the softmax of mean / sqrt(1 + pi variance / 8) (MacKay 1992, for each logit).

        Raises TombolaError for an unknown link, and for fewer than one sample.
        """
        mean, variance = (value.double() for value in self(x))
        if link == "probit":
            return (mean / (1 + math.pi / 8 * variance).sqrt()).softmax(-1)
        if link != "sampled":
            raise TombolaError(f"link is {link!r}; it must be sampled or probit")
        if samples < 1:
            raise TombolaError(f"samples is {samples}; it must be at least 1")
        total = torch.zeros_like(mean)
        for part in _noise(samples, mean, seed).split(64):  # all at once would take samples times the memory of a batch
            total += (mean + variance.clamp(min=0).sqrt() * part).softmax(-1).sum(0)
        return total / samples

    def outputs(self, x: Tensor, *, samples: int = 512, seed: Any = 0) -> Tensor:
        """Return normal outputs with these moments, [S, B, C]; their noise depends on `seed` alone.

        Raises TombolaError for fewer than one sample.
        """
        if samples < 1:
            raise TombolaError(f"samples is {samples}; it must be at least 1")
        mean, variance = self(x)
        return mean + variance.clamp(min=0).sqrt() * _noise(samples, mean, seed).to(mean.dtype)


def _noise(samples: int, mean: Tensor, seed: Any) -> Tensor:
    """Return standard normal noise [S, 1, C], one for all examples."""
    words = seed if isinstance(seed, tuple) else (seed,)
    generator = streams.generator("moments", *words)
    return torch.randn(samples, 1, *mean.shape[1:], generator=generator, dtype=torch.float64)


class Samples:
    """Weight samples of a ticket, each a compiled network with its own batch-norm statistics."""

    def __init__(self, predictors: "Sequence[Predictor]"):
        self.predictors = predictors
        """One a sample."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs of each sample for a float32 CPU tensor [B, ...]: [S, B, ...]."""
        return torch.stack([predictor(x) for predictor in self.predictors])

    def predict(self, x: Tensor) -> Prediction:
        """Return class probabilities with their uncertainty, as `ticket.predict`."""
        return classes_of(self(x))
