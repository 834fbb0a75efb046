"""The networks that are timed."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet_like() -> nn.Module:
    """Nine residual blocks of 16, 32 and 64 channels on 32x32 images: 272,474 parameters."""
    blocks, channels = [], 16
    for width, stride in ((16, 1), (16, 1), (16, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1)):
        blocks.append(_Block(channels, width, stride))
        channels = width
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def mlp_5m() -> nn.Module:
    """784-1600-1600-700-10: 4,945,310 parameters."""
    sizes, layers = (784, 1600, 1600, 700), []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 10))


def batch_for(name: str, size: int) -> tuple[Tensor, Tensor]:
    """Random inputs and labels."""
    shape = (size, 3, 32, 32) if name == "resnet-like" else (size, 784)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator), torch.randint(10, (size,), generator=generator)


NETS = {"resnet-like": (resnet_like, 1.10), "mlp-5m": (mlp_5m, 1.20)}
"""Name -> factory, and the target ratio of a variational step over a deterministic one."""
