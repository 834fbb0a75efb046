"""Residual networks for small images [C, H, W] (He et al. 2016), with a 3x3 stem at full resolution."""

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from tombola.errors import TombolaError

from .parts import he_normal, image, positive

_DEEPEST = 1202  # the deepest of He et al. 2016, section 4.2


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut: 1x1 convolution with batch norm where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs)))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet(depth: int, input_shape: Sequence[int], outputs: int, width: int = 16) -> nn.Sequential:
    """ResNet for CIFAR of `depth` 6n + 2: three segments of n blocks with `width`, 2 `width` and 4 `width` channels.

    He et al. 2016, section 4.2, but with convolutions as shortcuts (their option B). On 3 channels and 10 classes with
    width 16: depth 20 has 272,474 parameters, depth 110 has 1,730,714. He initialisation. Raises TombolaError for another
    depth or no image.
    """
    if not 8 <= depth <= _DEEPEST or depth % 6 != 2:
        raise TombolaError(f"depth of resnet is {depth}; it must be 6n + 2: 8, 14, 20, 32, 44, 56, 110, at most {_DEEPEST}")
    return _residual(f"resnet{depth}", [(depth - 2) // 6] * 3, input_shape, outputs, width)


def resnet18(input_shape: Sequence[int], outputs: int, width: int = 64) -> nn.Sequential:
    """ResNet-18 with a CIFAR stem: four segments of two blocks with `width` to 8 `width` channels, no pooling before them.

    11,173,962 parameters on 3 channels and 10 classes. He initialisation.
    """
    return _residual("resnet18", [2] * 4, input_shape, outputs, width)


def _residual(name: str, blocks: Sequence[int], input_shape: Sequence[int], outputs: int, width: int) -> nn.Sequential:
    """Build segments of `blocks` blocks; each after the first has twice the channels and half the resolution."""
    channels, *_ = image(input_shape, name)
    positive(name, width=width)
    stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Sequential(OrderedDict(conv=stem, norm=nn.BatchNorm2d(width), relu=nn.ReLU()))
    )
    inputs = width
    for segment, count in enumerate(blocks):
        out = width * 2**segment
        strides = [1 if segment == 0 else 2] + [1] * (count - 1)
        layers[f"segment{segment + 1}"] = nn.Sequential(
            *(Block(inputs if i == 0 else out, out, stride) for i, stride in enumerate(strides))
        )
        inputs = out
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": nn.Linear(inputs, outputs)}
    net = nn.Sequential(layers)
    he_normal(net)
    return net
