"""Activations of a chunk of examples in the layout of the sparse kernels.

Legend: N examples of a chunk, C channels, H rows, W columns, p zeros around.

A block is a flat buffer of [C][p + H + p][W + p][N] floats with p * N zeros before it: the zeros right of a row are also
left of the next. Kernels write the inner positions alone, so zeros stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_SLACK = 1024
"""Floats after a block, which the last vectors of a sweep may read."""


@dataclass(frozen=True)
class Block:
    """One value of the network, [N, C, H, W]."""

    channels: int
    height: int
    width: int
    chunk: int
    pad: int = 0

    @property
    def row(self) -> int:
        """Floats from a row to the next."""
        return (self.width + self.pad) * self.chunk

    @property
    def plane(self) -> int:
        """Floats from a channel to the next."""
        return (self.height + 2 * self.pad) * self.row

    @property
    def origin(self) -> int:
        """Floats before position (0, 0) of channel 0."""
        return self.pad * (self.chunk + self.row)

    @cached_property
    def buffer(self) -> Tensor:
        return torch.zeros(self.origin + self.channels * self.plane + 8 * self.row + _SLACK)

    @property
    def address(self) -> int:
        """Address of position (0, 0) of channel 0."""
        return self.buffer.data_ptr() + 4 * self.origin

    @property
    def images(self) -> Tensor:
        """View of the inner positions, [N, C, H, W]."""
        sizes = (self.chunk, self.channels, self.height, self.width)
        return self.buffer.as_strided(sizes, (1, self.plane, self.row, self.chunk), self.origin)

    def view(self, shape: Sequence[int]) -> Tensor:
        """Return the view of the value as torch has it: images, [N, tokens, features] or [N, features]."""
        if len(shape) == 4:
            return self.images
        return self.images.flatten(2).transpose(1, 2) if len(shape) == 3 else self.images[:, :, 0, 0]
