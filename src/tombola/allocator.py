"""What the C library does with memory that a training has freed."""

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Keeps glibc from giving freed memory back to the system, for the rest of this process; does nothing elsewhere.

    A training step frees its activations and asks for as much again at once; fetching it from the system each time, page by
    page, costs up to 15% of a convolutional step on a CPU. The process keeps its peak of memory until it ends.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_MMAP_THRESHOLD, 2**30)
