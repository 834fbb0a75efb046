"""Stored images as pixels in [0, 1], and back.

Legend: N images, H, W, C their height, width and channels.
"""

import numpy as np
import torch
from torch import Tensor

from tombola.errors import TombolaError


def check_images(stored: Tensor, what: str) -> None:
    """Raise TombolaError unless inputs are images [N, C, H, W] of one or three channels: bytes, or floats in [0, 1]."""
    if stored.ndim != 4 or stored.shape[1] not in (1, 3):
        raise TombolaError(f"{what} is of images with one or three channels; the inputs have shape {list(stored.shape[1:])}")
    in_bounds = stored.dtype == torch.uint8 or (
        stored.is_floating_point() and len(stored) and float(stored.min()) >= 0 and float(stored.max()) <= 1
    )
    if not in_bounds:
        raise TombolaError(
            f"{what} is of images stored as bytes, or as floats in [0, 1]; these are {stored.dtype} outside of it: store "
            "them so, with a `normalise` of the Dataset"
        )


def as_pixels(stored: Tensor) -> np.ndarray:
    """Return images [N, C, H, W] as float64 in [0, 1], [N, H, W, C]. Raises TombolaError as `check_images`."""
    if len(stored):
        check_images(stored, "a corruption")
    values = stored.cpu().to(torch.float64).permute(0, 2, 3, 1).contiguous().numpy()
    return values / 255 if stored.dtype == torch.uint8 else values


def as_stored(pixels: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Return pixels [N, H, W, C] as stored images [N, C, H, W]: cut to [0, 1] and rounded to bytes, floats too."""
    rounded = torch.from_numpy(np.rint(255 * pixels.clip(0, 1))).permute(0, 3, 1, 2).contiguous()
    return rounded.to(torch.uint8) if dtype == torch.uint8 else (rounded / 255).to(dtype)
