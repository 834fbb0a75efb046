"""Kernels of transformers: layer norm over the channels of each position, and GELU."""

import math

import numpy as np

from .access import ZERO
from .fits import END, fitted, polynomial
from .vectors import floats

_BELOW = fitted(lambda t: t * 0.5 * math.erfc(t / math.sqrt(2)))
"""t Phi(-t): GELU is max(x, 0) less that of abs(x)."""
_ONE, _SCALE, _LAST = np.float32(1), np.float32(2 / END), np.float32(END)


def norms(t):  # type: ignore[no-untyped-def]
    """Write x less its mean over channels, over its standard deviation, times a weight plus a bias of each channel."""
    channels, width = t[6], t[8]
    weight, bias, eps = floats(t[9], 0), floats(t[10], 0), floats(t[11], 0)[0]
    mean, scale = floats(t[12], 0), floats(t[12], width)
    share = np.float32(1 / channels)
    for h in range(t[7]):
        for i in range(width):
            mean[i] = scale[i] = ZERO
        for c in range(channels):
            x = floats(t[0], c * t[2] + h * t[1])
            for i in range(width):
                mean[i] += x[i]
        for i in range(width):
            mean[i] *= share
        for c in range(channels):
            x = floats(t[0], c * t[2] + h * t[1])
            for i in range(width):
                scale[i] += (x[i] - mean[i]) * (x[i] - mean[i])
        for i in range(width):
            scale[i] = _ONE / np.sqrt(scale[i] * share + eps)
        for c in range(channels):
            x, y = floats(t[0], c * t[2] + h * t[1]), floats(t[3], c * t[5] + h * t[4])
            for i in range(width):
                y[i] = (x[i] - mean[i]) * scale[i] * weight[c] + bias[c]


def gelus(t):  # type: ignore[no-untyped-def]
    """Write x Phi(x)."""
    for c in range(t[6]):
        for h in range(t[7]):
            x, y = floats(t[0], c * t[2] + h * t[1]), floats(t[3], c * t[5] + h * t[4])
            for i in range(t[8]):
                u = min(abs(x[i]), _LAST) * _SCALE - _ONE
                y[i] = max(x[i], ZERO) - max(polynomial(u, _BELOW), ZERO)
