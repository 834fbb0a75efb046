"""The protocol of a posterior, and the families there are. A new family is a class and a line in FAMILIES.

Legend: P parameters of the layout.
"""

from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from tombola.errors import TombolaError

from .gaussian import Gaussian
from .layout import Layout
from .point import Point


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
        """[P]."""

    @property
    def std(self) -> Tensor | None:
        """Marginal standard deviation [P], exactly 0 where masked or deterministic; None of a posterior that is a point."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """A draw [P], a function of the generator (which is on the posterior's device) alone."""

    def masked(self, mask: Tensor) -> Self:
        """The same under `mask` (bool [P]), in fresh tensors."""

    def with_mean(self, mean: Tensor) -> Self:
        """The same about another `mean` [P], for transplants."""

    def between(self, other: Self, alpha: float) -> Self:
        """The posterior at `alpha` (above 0, below 1) on the line to `other`, of the same layout. What either mask keeps is
        kept."""

    def tensors(self) -> dict[str, Tensor]:
        """All it is made of beside layout and mask, by name. Tensors of any shape are saved; where a first or last dimension
        is P, of surviving weights alone."""

    @classmethod
    def of_tensors(cls, layout: Layout, mask: Tensor, tensors: dict[str, Tensor]) -> Self:
        """The inverse of `tensors`."""

    @classmethod
    def of(cls, other: "Posterior") -> Self:
        """A posterior of this family that starts where `other`, of any family, is; one of this family itself. Raises
        TombolaError where `other` lacks what that takes."""


FAMILIES: dict[str, type[Posterior]] = {"gaussian": Gaussian, "point": Point}
"""The families that states can be of and that files may name."""


def family_of(name: str) -> type[Posterior]:
    """Return the family of that name. Raises TombolaError for one that is not registered."""
    if name not in FAMILIES:
        raise TombolaError(
            f"no posterior family {name!r} is registered, only {', '.join(FAMILIES)}; import the file that adds it to "
            "tombola.posterior.families.FAMILIES"
        )
    return FAMILIES[name]
