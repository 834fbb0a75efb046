"""Nonzero weights of a layer as offsets into its input's block."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola.errors import TombolaError

from .blocks import Block


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution over images [C, H, W]; each pair is of rows and columns."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def outputs(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of the output."""
        first, second = (
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip((height, width), self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )
        return first, second

    def taps(self, axis: int) -> list[tuple[int, int]]:
        """Return (phase, shift) of each tap along an axis: output i reads position i + shift of that phase of the input."""
        stride, padding, dilation = self.stride[axis], self.padding[axis], self.dilation[axis]
        places = [u * dilation - padding for u in range(self.kernel[axis])]
        return [(place % stride, place // stride) for place in places]

    def pad(self, height: int, width: int) -> int:
        """Return the zeros that the phases of an input of that size need around."""
        most = 0
        for axis, size in enumerate((height, width)):
            length, outputs = -(-size // self.stride[axis]), self.outputs(height, width)[axis]
            shifts = [shift for _, shift in self.taps(axis)]
            # the last: a row of outputs is not longer than a row of the block
            most = max(most, -min(shifts), outputs - 1 + max(shifts) - (length - 1), outputs - length)
        return most


@dataclass(frozen=True)
class Sparse:
    """Nonzeros by output channel."""

    channels: Tensor
    """Int64: the output channels that have any, or that are asked for."""
    rows: Tensor
    """Int64: the nonzeros of channel i are `rows[i]` up to `rows[i + 1]`."""
    offsets: Tensor
    """Int32: bytes from an output's position to the input that a nonzero multiplies."""
    index: Tensor
    """Int64: place of each nonzero in the flat weight."""


def sparse(weight: Tensor, window: Window, block: Block, groups: int = 1, every: bool = False) -> Sparse:
    """Return the nonzeros of `weight` [O, I, kernel] over `block`, which holds the phases of the input.

    Legend: O output channels, I input channels of a group. every: list channels without nonzeros, too.
    """
    o, i, u, v = weight.nonzero(as_tuple=True)
    stride, inputs = window.stride[0], weight.shape[1] * groups
    channel = i + torch.div(o, weight.shape[0] // groups, rounding_mode="floor") * weight.shape[1]
    rows, columns = (torch.tensor(window.taps(axis)) for axis in (0, 1))
    phase = rows[u, 0] * stride + columns[v, 0]
    floats = (phase * inputs + channel) * block.plane + rows[u, 1] * block.row + columns[v, 1] * block.chunk
    if block.channels * block.plane >= 2**29:
        raise TombolaError(
            f"a value of {block.channels}x{block.height}x{block.width} takes over 2 GB for {block.chunk} examples; compile "
            "with a smaller batch as example, or with kernels='dense'"
        )
    counts = torch.bincount(o, minlength=weight.shape[0])
    channels = torch.arange(len(weight)) if every else counts.nonzero()[:, 0]
    ends = counts[channels].cumsum(0)
    index = ((o * weight.shape[1] + i) * weight.shape[2] + u) * weight.shape[3] + v
    return Sparse(channels, torch.cat([ends.new_zeros(1), ends]), (4 * floats).int(), index)


def group_of(rows: int, step: int, kernel: int, channels: int, even: bool, cache: int = 300_000) -> int:
    """Return the rows of output to compute at once, so that the input rows of all channels stay in `cache` bytes."""
    group = rows + (rows % 2 if even else 0)
    while group > 2 and (group + kernel - 1) * step * 4 * channels > cache:
        group = (group // 2 + 1) // 2 * 2
    return group


def pair(value: Sequence[int] | int) -> tuple[int, int]:
    """Return two numbers from one or two."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers[0], numbers[-1]
