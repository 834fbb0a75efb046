"""The protocol of a posterior, and the registered families. A new family is a class and a line in FAMILIES.

Legend: P parameters of the layout.
"""

from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from tombola import streams
from tombola.errors import TombolaError

from .dropout import Dropout
from .full import FullGaussian
from .gaussian import Gaussian
from .layout import Layout
from .low_rank import LowRank
from .point import Point
from .samples import Samples, Swag


class Posterior(Protocol):
    """A distribution over the P parameters of a layout, under a mask. It is immutable; its tensors share one device."""

    family: ClassVar[str]
    """Its name in `FAMILIES` and in files; without a dot."""

    @property
    def layout(self) -> Layout:
        """The flat order of the parameters, and which of them are random."""

    @property
    def mask(self) -> Tensor:
        """Bool [P]; False is pruned: exactly 0 in the mean, the std and every sample."""

    @property
    def mean(self) -> Tensor:
        """The mean of each parameter [P]."""

    @property
    def std(self) -> Tensor | None:
        """Marginal standard deviation [P], exactly 0 where masked or deterministic; None of a posterior that is a point."""

    @property
    def points(self) -> Tensor | None:
        """The points [K, P] of a posterior that is a finite set of equally likely ones; None of all others."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw parameters [P]: a function of the generator (which is on the posterior's device) alone."""

    def masked(self, mask: Tensor) -> Self:
        """Return a copy under `mask` (bool [P]), in fresh tensors."""

    def with_mean(self, mean: Tensor) -> Self:
        """Return a copy about another `mean` [P], for transplants."""

    def between(self, other: Self, alpha: float) -> Self:
        """Return the posterior at `alpha` (above 0, below 1) on the line to `other`, of the same layout.

        A weight is kept where either mask keeps it.
        """

    def tensors(self) -> dict[str, Tensor]:
        """Return all of its tensors but the mask, by name.

        Tensors of any shape can be saved; where a first or last dimension is P, only surviving weights are.
        """

    @classmethod
    def of_tensors(cls, layout: Layout, mask: Tensor, tensors: dict[str, Tensor]) -> Self:
        """Return the posterior of these tensors: the inverse of `tensors`."""

    @classmethod
    def of(cls, other: "Posterior") -> Self:
        """Return a posterior of this family that starts at `other`, of any family; one of this family is returned as it is.

        Raises TombolaError where `other` lacks something that the family needs.
        """


FAMILIES: dict[str, type[Posterior]] = {
    "gaussian": Gaussian,
    "point": Point,
    "samples": Samples,
    "swag": Swag,
    "full": FullGaussian,
    "low_rank": LowRank,
    "dropout": Dropout,
}
"""Name -> family: those that a state can have and a file may name."""


def family_of(name: str) -> type[Posterior]:
    """Return the family of that name. Raises TombolaError for one that is not registered."""
    if name not in FAMILIES:
        raise TombolaError(
            f"no posterior family {name!r} is registered, only {', '.join(FAMILIES)}; import the file that adds it to "
            "tombola.posterior.families.FAMILIES"
        )
    return FAMILIES[name]


def draws_of(q: Posterior, samples: int) -> int:
    """Return the weight samples of a prediction that asks for `samples`: of a finite posterior at most its points."""
    return samples if q.points is None else min(samples, len(q.points))


def weight_sample(q: Posterior, stream: streams.Name, s: int) -> Tensor:
    """Draw weight sample `s` of a prediction [P]; of a finite posterior its points in an order of the stream, each once.

    Raises TombolaError for a sample that no prediction has.
    """
    points = q.points
    if s < 0 or (points is not None and s >= len(points)):
        count = "" if points is None else f" and below {len(points)}, the number of points of the posterior"
        raise TombolaError(f"sample is {s}; it must be at least 0{count}")
    if points is None:
        return q.sample(streams.generator("predict", *stream, s, device=q.mean.device))
    return points[int(torch.randperm(len(points), generator=streams.generator("predict", *stream, "order"))[s])]
