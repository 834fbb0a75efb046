"""Fully connected networks."""

import itertools
import math
from collections.abc import Sequence

from torch import nn


def mlp(input_shape: Sequence[int], outputs: int, hidden: Sequence[int] = (300, 100)) -> nn.Sequential:
    """Linear layers with ReLU between, on flattened inputs."""
    sizes = [math.prod(input_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))
