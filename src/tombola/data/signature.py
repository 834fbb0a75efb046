"""Signature of a ticket's inputs: enough to read new ones as the training ones were, without the training data.

Legend: B examples, C channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from tombola.errors import TombolaError

from .normalise import Normalise

_LARGEST = 8192
"""Largest side of a picture in pixels, before it is pooled: what others wrote into a file must not fill the memory."""


@dataclass(frozen=True)
class Signature:
    """Form of stored inputs, their decoding and normalisation, and the names of the classes."""

    shape: tuple[int, ...]
    """Shape of one input; of images [C, H, W]."""
    dtype: str = "float32"
    """Stored inputs: `uint8` pixels, `float32` numbers, or whole numbers, as `int64`."""
    classes: tuple[str, ...] = ()
    """Names of the classes by number; empty for a regression."""
    normalise: Normalise | None = None
    """Function from stored inputs to the network's; None: they are stored as the network takes them."""
    columns: tuple[str, ...] = ()
    """Columns of a table that are the inputs, in order."""
    size: int | None = None
    """Side of the squares to which images are resized; None: images have the right size."""
    pool: int = 1
    """Side of the squares of pixels that are averaged."""
    unit: bool = False
    """True for float32 images whose values are pixels in [0, 1]: uint8 pixels are divided by 255."""

    def __post_init__(self) -> None:
        """Raise TombolaError for a field that no data has."""
        sides = self.shape[1:] if _are(self.shape, int) else ()
        fits = {
            "shape": (_are(self.shape, int) and min(self.shape, default=1) > 0, "whole numbers above 0"),
            "dtype": (isinstance(getattr(torch, str(self.dtype), None), torch.dtype), "the name of one of torch's"),
            "classes": (_are(self.classes, str), "texts"),
            "columns": (_are(self.columns, str), "texts"),
            "size": (
                self.size is None or (_are((self.size,), int) and 0 < self.size <= _LARGEST),
                f"1 to {_LARGEST} pixels",
            ),
            "pool": (
                _are((self.pool,), int) and 0 < self.pool * max(sides, default=1) <= _LARGEST,
                f"1 or more, of pictures of at most {_LARGEST} pixels a side",
            ),
            "unit": (isinstance(self.unit, bool), "true or false"),
            "normalise": (self.normalise is None or self.normalise.fits(self.shape), "numbers, std and scale above 0"),
        }
        for name, (is_right, wanted) in fits.items():
            if not is_right:
                raise TombolaError(f"{name} of the inputs is {getattr(self, name)!r:.60}; it must be {wanted}")

    def to_json(self) -> dict[str, Any]:
        """Return it as a ticket's `info["inputs"]` has it."""
        normalise = self.normalise and self.normalise.to_json()
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()} | {"normalise": normalise}

    @classmethod
    def of_json(cls, raw: Mapping[str, Any]) -> "Signature":
        """Return what `to_json` gave. Raises TombolaError for anything else."""
        try:
            known = {field.name for field in fields(cls)}
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items() if k in known}
            if (given := values.get("normalise")) is not None:
                values["normalise"] = Normalise(tuple(given["mean"]), tuple(given["std"]), given["scale"])
            return cls(**values)
        except (TypeError, KeyError, AttributeError, TombolaError) as error:
            raise TombolaError(f"the ticket's info.inputs is no signature ({error}); save the ticket anew") from None

    def prepare(self, inputs: Tensor, first: int = 0) -> Tensor:
        """Return the network's inputs from stored ones [B, ...]. first: number of the first of them, for errors.

        Raises TombolaError for inputs of another shape or kind, and for values that are not finite or no pixels.
        """
        if tuple(inputs.shape[1:]) != self.shape or not inputs.ndim:
            raise TombolaError(
                f"inputs have the shape {list(inputs.shape)}; the ticket takes [B, {', '.join(map(str, self.shape))}]"
            )
        if inputs.dtype != torch.uint8:
            inputs = self._numbers(inputs, first)
        elif self.dtype != "uint8":
            inputs = inputs.float() / (255 if self.unit else 1)
        return inputs if self.normalise is None else self.normalise(inputs)

    def _numbers(self, inputs: Tensor, first: int) -> Tensor:
        """Return inputs that are no pixels in the dtype of the stored ones, checked."""
        if self.dtype == "uint8":
            raise TombolaError(
                f"inputs are {inputs.dtype}; the ticket takes pixels from 0 to 255 in torch.uint8 and normalises them"
            )
        if inputs.is_complex():
            raise TombolaError(f"inputs are {inputs.dtype}; the ticket takes real numbers: give their parts as inputs")
        whole = self.dtype.startswith("int")
        if whole and inputs.is_floating_point():
            raise TombolaError(f"inputs are {inputs.dtype}; the ticket takes whole numbers: torch.{self.dtype}")
        check_finite(inputs, first)
        if self.unit and inputs.numel() and not 0 <= (low := inputs.min().item()) <= (high := inputs.max().item()) <= 1:
            raise TombolaError(
                f"inputs are from {low:.4g} to {high:.4g}; the ticket takes pixels in [0, 1], or uint8 from 0 to 255"
            )
        return inputs.to(getattr(torch, self.dtype)) if whole else inputs.float()


def _are(values: Any, kind: type) -> bool:
    """Return whether it is a tuple of values of this kind; a bool is no number."""
    return isinstance(values, tuple) and all(isinstance(value, kind) and not isinstance(value, bool) for value in values)


def check_finite(inputs: Tensor, first: int = 0) -> None:
    """Raise TombolaError naming an example with a value that is NaN or infinite. first: number of the first example."""
    if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
        wrong = (~inputs.isfinite()).flatten(1).any(1) if inputs.ndim > 1 else ~inputs.isfinite()
        number = first + int(wrong.nonzero()[0, 0])
        raise TombolaError(f"input {number} has a value that is NaN or infinite; fill it or leave the example out")
