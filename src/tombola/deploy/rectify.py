"""Kernels of moments: the rectified normal, and pooling by the largest mean.

A value has the channels [m, v] or [m, v, m (m - 2 c)] (`moments.py`). With t = abs(m) / std, mean and variance of max(x, 0)
are polynomials of two functions of t that vanish for large t.
"""

import math

import numpy as np
from numba import njit

from .access import INNER, ZERO
from .fits import END, fitted, polynomial
from .vectors import floats, longs


def _above(t: float) -> float:
    return 0.5 * math.erfc(t / math.sqrt(2))


def _density(t: float) -> float:
    return math.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)


_MEAN = fitted(lambda t: _density(t) - t * _above(t))
_SECOND = fitted(lambda t: (1 + t * t) * _above(t) - t * _density(t))
_ONE, _TWO, _TINY, _LAST, _SCALE = (np.float32(each) for each in (1, 2, 1e-12, END, 2 / END))


def lifted(t):  # type: ignore[no-untyped-def]
    """Write [m, v, m (m - 2 c)] of a value, or of its positive part."""
    channels, width, rectified = t[6], t[8], t[9]
    doubled = floats(t[10], 0)
    for c in range(channels):
        d = doubled[c]
        for h in range(t[7]):
            m, v = floats(t[0], c * t[2] + h * t[1]), floats(t[0], (channels + c) * t[2] + h * t[1])
            mean, variance = floats(t[3], c * t[5] + h * t[4]), floats(t[3], (channels + c) * t[5] + h * t[4])
            square = floats(t[3], (2 * channels + c) * t[5] + h * t[4])
            if not rectified:
                for i in range(width):
                    mean[i], variance[i], square[i] = m[i], v[i], m[i] * (m[i] - d)
                continue
            for i in range(width):
                std = np.sqrt(max(v[i], _TINY))
                a = m[i] / std
                u = min(abs(a), _LAST) * _SCALE - _ONE
                q, r = max(polynomial(u, _MEAN), ZERO), max(polynomial(u, _SECOND), ZERO)
                share = (_ONE - r - _TWO * min(abs(a), _LAST) * q if a > ZERO else r) - q * q
                e = max(m[i], ZERO) + std * q
                mean[i], variance[i], square[i] = e, max(v[i] * share, ZERO), e * (e - d)


def peaks(t):  # type: ignore[no-untyped-def]
    """Write [m, v] at the largest mean of each window; the windows are those of `kernels._pool`."""
    channels, height, width, chunk = t[6], t[7], t[8], t[9]
    windows = longs(t[10])
    if chunk == 1:
        _peaks_of_one(t, windows)
        return
    for c in range(channels):
        for h in range(height):
            for w in range(width):
                out = c * t[5] + h * t[4] + w * chunk
                mean, variance = floats(t[3], out), floats(t[3], channels * t[5] + out)
                first = True
                for r in range(windows[2 * h], windows[2 * h + 1]):
                    for q in range(windows[2 * (height + w)], windows[2 * (height + w) + 1]):
                        start = c * t[2] + r * t[1] + q * chunk
                        m, v = floats(t[0], start), floats(t[0], channels * t[2] + start)
                        for n in range(chunk):
                            larger = first or m[n] > mean[n]
                            mean[n] = m[n] if larger else mean[n]
                            variance[n] = v[n] if larger else variance[n]
                        first = False


@njit(**INNER)
def _peaks_of_one(t, windows):  # type: ignore[no-untyped-def]
    """Do the same for a chunk of one example, without slices of one float."""
    channels, height, width = t[6], t[7], t[8]
    for c in range(channels):
        m, v = floats(t[0], c * t[2]), floats(t[0], (channels + c) * t[2])
        for h in range(height):
            out = c * t[5] + h * t[4]
            mean, variance = floats(t[3], out), floats(t[3], channels * t[5] + out)
            for w in range(width):
                left = windows[2 * (height + w)]
                best = windows[2 * h] * t[1] + left
                for r in range(windows[2 * h], windows[2 * h + 1]):
                    for q in range(left, windows[2 * (height + w) + 1]):
                        best = r * t[1] + q if m[r * t[1] + q] > m[best] else best
                mean[w], variance[w] = m[best], v[best]
