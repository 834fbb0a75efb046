"""Predictions from moments.

Legend: B examples, C classes.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from tombola import streams
from tombola.errors import TombolaError

from .predictor import Predictor


class Moments:
    """Mean and variance of a network's outputs under its posterior, in one pass: `moments(x)` is both, each [B, C]."""

    def __init__(self, predictor: Predictor):
        self.predictor = predictor
        """Predictor of means and variances, [B, 2, C]; its `summary()` lists the layers."""

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
        noise = torch.randn(samples, 1, mean.shape[1], generator=streams.generator("moments", seed), dtype=torch.float64)
        total = torch.zeros_like(mean)
        for part in noise.split(64):  # all at once would take samples times the memory of a batch
            total += (mean + variance.sqrt() * part).softmax(-1).sum(0)
        return total / samples
