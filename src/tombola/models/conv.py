"""Small convolutional networks for images [C, H, W]."""

from collections.abc import Sequence

from torch import nn

from .parts import image


def lenet(input_shape: Sequence[int], outputs: int) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling; pools adapt to images from 8x8 up."""
    channels, *size = image(input_shape, "lenet")
    kernel = 5 if min(size) >= 28 else 3
    return nn.Sequential(
        nn.Conv2d(channels, 6, kernel, padding=kernel // 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, kernel, padding=kernel // 2),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(min(5, min(size) // 2)),
        nn.Flatten(),
        nn.Linear(16 * min(5, min(size) // 2) ** 2, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, outputs),
    )


def conv(
    input_shape: Sequence[int], outputs: int, widths: Sequence[int] = (16, 32, 32), batch_norm: bool = False
) -> nn.Sequential:
    """Stack of 3x3 convolutions with ReLU, all but the first of stride 2; global average pooling; one linear layer."""
    channels, *_ = image(input_shape, "conv")
    layers: list[nn.Module] = []
    for i, width in enumerate(widths):
        layers.append(nn.Conv2d(channels, width, 3, stride=1 if i == 0 else 2, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU())
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))
