"""Kernels of a compiled network, and the loop that runs a table of them.

Activations of a chunk of N examples lie as [channel][row][column][N] with zeros around (`blocks.py`), so that a weight of a
convolution is one constant offset and the positions of a row are one run of floats. A row of the table is one operation: the
address of its kernel, then integers that are addresses, strides (in floats) and sizes, in the order of `OPERATIONS`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import cfunc, njit, types

from .access import INNER, OPTIONS, ZERO
from .rectify import lifted, peaks
from .tokens import gelus, norms
from .vectors import WIDTH, call_at, floats, longs, tile

FIELDS = 24
_CHANGE = "x x_row x_plane y y_row y_plane channels height width"
OPERATIONS = {
    "conv": "x rows offsets values bias channels count scratch height width step group "
    "y y_row y_plane relu pool other other_row other_plane chunk",
    "pool": f"{_CHANGE} chunk windows mean",
    "join": "x x_row x_plane other other_row other_plane y y_row y_plane channels height width relu",
    "phase": f"{_CHANGE} chunk stride",
    "lift": f"{_CHANGE} rectified doubled",
    "peak": f"{_CHANGE} chunk windows",
    "gelu": _CHANGE,
    "norm": f"{_CHANGE} weight bias eps scratch",
}
"""Kind of operation -> names of its fields in order."""
_ALL = 4 * WIDTH  # bytes of a vector
_tile1, _tile2, _tile3, _tile4, _tile5, _tile6 = tile(1, 8), tile(2, 4), tile(3, 3), tile(4, 2), tile(5, 2), tile(6, 2)
_tile7, _tile8, _tile9, _tile10, _tile11, _tile12 = tile(7, 1), tile(8, 1), tile(9, 1), tile(10, 1), tile(11, 1), tile(12, 1)


@njit(**INNER)
def _channel(x, y, offsets, values, first, last, bias, vectors):  # type: ignore[no-untyped-def]
    """Write the sums of one output channel over `vectors` vectors of positions."""
    while vectors > 0:
        # up to twelve vectors at once fill the registers; what is left over is halved rather than ended by a short tile
        n = vectors if vectors <= 12 else 12 if vectors >= 24 else (vectors + 1) // 2
        if n == 12:
            _tile12(x, y, offsets, values, first, last, bias)
        elif n == 11:
            _tile11(x, y, offsets, values, first, last, bias)
        elif n == 10:
            _tile10(x, y, offsets, values, first, last, bias)
        elif n == 9:
            _tile9(x, y, offsets, values, first, last, bias)
        elif n == 8:
            _tile8(x, y, offsets, values, first, last, bias)
        elif n == 7:
            _tile7(x, y, offsets, values, first, last, bias)
        elif n == 6:
            _tile6(x, y, offsets, values, first, last, bias)
        elif n == 5:
            _tile5(x, y, offsets, values, first, last, bias)
        elif n == 4:
            _tile4(x, y, offsets, values, first, last, bias)
        elif n == 3:
            _tile3(x, y, offsets, values, first, last, bias)
        elif n == 2:
            _tile2(x, y, offsets, values, first, last, bias)
        else:
            _tile1(x, y, offsets, values, first, last, bias)
        x += _ALL * n
        y += _ALL * n
        vectors -= n


@njit(**INNER)
def _pooled(sums, step, y, width, chunk):  # type: ignore[no-untyped-def]
    """Write the largest of 2x2 positions, at least 0, of two rows of sums `step` apart. sums, y: addresses."""
    if chunk == 1:
        a, b, out = floats(sums, 0), floats(sums, step), floats(y, 0)
        for w in range(width):
            out[w] = max(max(max(a[2 * w], a[2 * w + 1]), max(b[2 * w], b[2 * w + 1])), ZERO)
        return
    for w in range(width):
        a, b, out = floats(sums, 2 * w * chunk), floats(sums, step + 2 * w * chunk), floats(y, w * chunk)
        for n in range(chunk):
            out[n] = max(max(max(a[n], a[n + chunk]), max(b[n], b[n + chunk])), ZERO)


def _conv(t):  # type: ignore[no-untyped-def]
    """Sparse convolution: for each group of rows, which stays in the cache, all channels; then what follows it."""
    x, scratch, count, height, width, step, group = t[0], t[7], t[6], t[8], t[9], t[10], t[11]
    y, y_row, y_plane, relu, pool, chunk = t[12], t[13], t[14], t[15], t[16], t[20]
    whole = step == width and y_row == width and not pool and (t[17] == 0 or t[18] == width)  # rows without a gap
    rows, channels, bias = longs(t[1]), longs(t[5]), floats(t[4], 0)
    for top in range(0, height, group):
        here = min(group, height - top)
        vectors = ((here - 1) * step + width + WIDTH - 1) // WIDTH
        for c in range(count):
            _channel(x + 4 * top * step, scratch, t[2], t[3], rows[c], rows[c + 1], bias[c], vectors)
            start = channels[c] * y_plane
            if pool:
                for r in range(here // 2):
                    out = y + 4 * (start + (top // 2 + r) * y_row)
                    _pooled(scratch + 8 * r * step, step, out, width // (2 * chunk), chunk)
                continue
            length = here * width if whole else width
            for r in range(1 if whole else here):
                out, row = floats(y, start + (top + r) * y_row), floats(scratch, r * step)
                if t[17]:
                    other = floats(t[17], channels[c] * t[19] + (top + r) * t[18])
                    for i in range(length):
                        row[i] += other[i]
                if relu:
                    for i in range(length):
                        out[i] = max(row[i], ZERO)
                else:
                    for i in range(length):
                        out[i] = row[i]


def _pool(t):  # type: ignore[no-untyped-def]
    """Pool windows: the table of windows has first and last row of each output row, then of each column."""
    height, width, chunk = t[7], t[8], t[9]
    windows = longs(t[10])
    for c in range(t[6]):
        for h in range(height):
            for w in range(width):
                top, bottom, left, right = windows[2 * h], windows[2 * h + 1], windows[2 * (height + w)], 0
                right = windows[2 * (height + w) + 1]
                out = floats(t[3], c * t[5] + h * t[4] + w * chunk)
                first = floats(t[0], c * t[2] + top * t[1] + left * chunk)
                for n in range(chunk):  # an assignment of slices takes numba four seconds
                    out[n] = first[n]
                for r in range(top, bottom):
                    for q in range(left, right):
                        if r == top and q == left:
                            continue
                        one = floats(t[0], c * t[2] + r * t[1] + q * chunk)
                        if t[11]:
                            for n in range(chunk):
                                out[n] += one[n]
                        else:
                            for n in range(chunk):
                                out[n] = max(out[n], one[n])
                if t[11]:
                    share = np.float32(1 / ((bottom - top) * (right - left)))
                    for n in range(chunk):
                        out[n] *= share


def _join(t):  # type: ignore[no-untyped-def]
    """Write the sum of two values, or one value, through ReLU or not."""
    width = t[11]
    for c in range(t[9]):
        for h in range(t[10]):
            a, out = floats(t[0], c * t[2] + h * t[1]), floats(t[6], c * t[8] + h * t[7])
            if t[3]:
                b = floats(t[3], c * t[5] + h * t[4])
                for i in range(width):
                    out[i] = a[i] + b[i]
            else:
                for i in range(width):
                    out[i] = a[i]
            if t[12]:
                for i in range(width):
                    out[i] = max(out[i], ZERO)


def _phase(t):  # type: ignore[no-untyped-def]
    """Write x[:, i::stride, j::stride] as plane (i * stride + j) * channels + c: a stride is then one of 1."""
    channels, height, width, chunk, stride = t[6], t[7], t[8], t[9], t[10]
    for i in range(stride):
        for j in range(stride):
            for c in range(channels):
                for h in range((height - i + stride - 1) // stride):
                    start = c * t[2] + (h * stride + i) * t[1] + j * chunk
                    out = ((i * stride + j) * channels + c) * t[5] + h * t[4]
                    for w in range((width - j + stride - 1) // stride):
                        d, s = floats(t[3], out + w * chunk), floats(t[0], start + w * stride * chunk)
                        for n in range(chunk):
                            d[n] = s[n]


_KERNELS: dict[str, Callable[[Any], None]] = {
    "conv": _conv,
    "pool": _pool,
    "join": _join,
    "phase": _phase,
    "lift": lifted,
    "peak": peaks,
    "gelu": gelus,
    "norm": norms,
}


@cache
def kernel(kind: str) -> int:
    """Return the address of a kind's kernel, compiled when first asked for: most networks need two or three."""
    made: Any = cfunc(types.void(types.CPointer(types.int64)), **OPTIONS)(_KERNELS[kind])
    return int(made.address)


@njit("void(int64[:, ::1])", **OPTIONS)
def run(table):  # type: ignore[no-untyped-def]
    """Run the operations of a table [operations, FIELDS] in order."""
    for i in range(len(table)):
        call_at(table[i, 0], table[i, 1:].ctypes.data)
