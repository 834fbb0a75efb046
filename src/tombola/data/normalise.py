"""Normalisation of stored inputs: a scale and a shift for each channel, applied batch by batch on the device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from tombola.errors import TombolaError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's red, green and blue in [0, 1], as in most published recipes."""

_CHUNK = 4096  # examples
_HUGE = 1e30  # beyond any mean, std or scale of data


@dataclass(frozen=True)
class Normalise:
    """Function (x / scale - mean) / std for each channel, in float32."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0
    """Scale of the inputs: 255 for uint8 pixels, so that mean and std are of values in [0, 1]."""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether it has numbers for inputs [C, ...] of this shape: one or C, finite, std and scale above 0."""
        counts, given = (1, *shape[:1]), (self.mean, self.std, (self.scale,))
        if not all(isinstance(part, tuple) and all(isinstance(number, Real) for number in part) for part in given):
            return False
        finite = all(abs(number) < _HUGE for part in given for number in part)
        return finite and len(self.mean) in counts and len(self.std) in counts and min(*self.std, self.scale) > 0

    def to_json(self) -> dict[str, Any]:
        """Return its fields in plain numbers: it may have numpy's."""
        return {"mean": [*map(float, self.mean)], "std": [*map(float, self.std)], "scale": float(self.scale)}

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return normalised inputs [B, C, ...] in float32, on their device."""
        factor, shift = _affine(self, inputs.device, inputs.ndim)
        return inputs.to(torch.float32).mul_(factor).add_(shift)


@lru_cache(maxsize=32)
def _affine(normalise: Normalise, device: torch.device, ndim: int) -> tuple[Tensor, Tensor]:
    """Return (factor, shift) of x * factor + shift; once a device, since copying even six numbers there takes time."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, *[1] * (ndim - 2)) for v in (normalise.mean, normalise.std))
    return (1 / (normalise.scale * std)).float().to(device), (-mean / std).float().to(device)


def normalise_of(choice: str | dict[str, Sequence[float]], train: Tensor, name: str) -> Normalise:
    """Return the normalisation of that name for stored inputs like `train` [N, C, ...].

    choice: auto, imagenet, own, none, or {mean: [..], std: [..]}.

    auto: imagenet for colour images, own for anything else. own: of the training examples. Raises TombolaError.
    """
    scale, channels = (255.0 if train.dtype == torch.uint8 else 1.0), train.shape[1]
    is_colour = train.ndim == 4 and channels == 3
    if choice == "auto":
        choice = "imagenet" if is_colour else "own"
    if choice == "imagenet":
        if not is_colour:
            raise TombolaError(
                f"{name}: normalise is imagenet, which is of colour images; inputs are {list(train.shape[1:])}: use own"
            )
        return Normalise(*IMAGENET, scale)
    if choice == "own":
        return Normalise(*_moments(train, scale), scale)
    if choice == "none":
        return Normalise((0.0,) * channels, (1.0,) * channels, scale)
    if isinstance(choice, dict) and choice.keys() == {"mean", "std"}:
        mean, std = _numbers(choice["mean"]), _numbers(choice["std"])
        if len(mean) == len(std) == channels and min(std) > 0:
            return Normalise(mean, std, scale)
    raise TombolaError(
        f"{name}: normalise is {choice!r}; it must be auto, imagenet, own, none, or {{mean: [...], std: [...]}} with "
        f"{channels} numbers each, std above 0"
    )


def _numbers(given: Any) -> tuple[float, ...]:
    """Return the finite numbers in a list; empty for anything else."""
    try:
        numbers = tuple(float(v) for v in given)
    except (TypeError, ValueError):
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


def _moments(train: Tensor, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, to six digits so that the order of summation does not count."""
    total, count = torch.zeros(train.shape[1], dtype=torch.float64), train[:, :1].numel()
    for part in train.split(_CHUNK):
        total += part.to(torch.float64).transpose(0, 1).flatten(1).sum(1)
    mean, squares = total / count, torch.zeros_like(total)
    for part in train.split(_CHUNK):
        squares += (part.to(torch.float64).transpose(0, 1).flatten(1) - mean[:, None]).square().sum(1)
    std = (squares / count).sqrt()
    std = torch.where(std > 0, std, scale)  # a constant channel becomes zeros
    rounded = [[float(f"{v:.6g}") for v in (value / scale).tolist()] for value in (mean, std)]
    return tuple(rounded[0]), tuple(rounded[1])
