"""VGG with batch norm for small images [C, H, W] (Simonyan & Zisserman 2015)."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from tombola.errors import TombolaError

from .parts import he_normal, image, positive

_CONVS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (1, 2, 4, 8, 8)  # times width


def vgg(depth: int, input_shape: Sequence[int], outputs: int, width: int = 64) -> nn.Sequential:
    """Five segments of 3x3 convolutions (with bias) with batch norm and ReLU; between them max pooling; one linear layer.

    The form for CIFAR: instead of the fifth max pooling an average over the remaining positions (2x2 of a 32x32 image), and
    no hidden linear layers. depth: 11, 13, 16 or 19. width: channels of the first
    segment; the last have 8 times as many. Depth 11 has 9,231,114 parameters on 3 channels and 10 classes. He
    initialisation. Raises TombolaError for another depth, or images below 16x16, which are too small for four poolings.
    """
    if depth not in _CONVS:
        raise TombolaError(f"depth of vgg is {depth}; it must be one of {', '.join(map(str, _CONVS))}")
    inputs, *_ = image(input_shape, f"vgg{depth}", least=16)
    positive(f"vgg{depth}", width=width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for segment, (count, factor) in enumerate(zip(_CONVS[depth], _CHANNELS, strict=True), start=1):
        if segment > 1:
            layers[f"pool{segment - 1}"] = nn.MaxPool2d(2)
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for i in range(1, count + 1):
            parts |= {
                f"conv{i}": nn.Conv2d(inputs, width * factor, 3, padding=1),
                f"norm{i}": nn.BatchNorm2d(width * factor),
                f"relu{i}": nn.ReLU(),
            }
            inputs = width * factor
        layers[f"segment{segment}"] = nn.Sequential(parts)
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": nn.Linear(inputs, outputs)}
    net = nn.Sequential(layers)
    he_normal(net)
    return net
