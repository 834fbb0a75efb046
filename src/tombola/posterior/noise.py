"""Standard normal noise for weight samples, a fraction of it drawn anew for each."""

import math

import torch
from torch import Tensor

from .. import streams

_SMALLEST_BLOCK = 1024


class NoisePool:
    """A window of `size` normal draws for each tick (one weight sample), a function of the words and the tick alone.

    On a CPU a normal draw costs 5 ns, more than the whole rest of a weight sample. So a pool of a little more than `size`
    draws is kept; each tick renews one block (the fraction `refresh` of it) and shows the pool from another offset. In one
    tick all draws are independent; a parameter meets the same number again only if another tick has the same offset.
    refresh = 1 draws everything anew.
    """

    def __init__(self, size: int, words: tuple[streams.Word, ...], refresh: float, like: Tensor):
        # few parameters have few offsets, and meet the same draws again too soon: all of their noise is new
        blocks = max(1, min(round(1 / refresh), size // _SMALLEST_BLOCK))
        self._block = math.ceil(size / blocks)
        self._blocks = blocks if blocks == 1 else blocks + 1  # one to spare, so that the window can move
        self._size, self.words, self.refresh = size, words, refresh
        self._pool = torch.empty(self._block * self._blocks, dtype=like.dtype, device=like.device)
        self._tick: int | None = None
        self.lent: list[Tensor] = []
        """Parts of windows that are still read: `window` replaces those that it overwrites by copies."""

    def window(self, tick: int) -> Tensor:
        """The noise of that tick, [size]: a view that the next call overwrites. Ticks in any order; in sequence is cheap."""
        known = tick - self._blocks
        if self._tick is not None and self._tick <= tick:
            known = max(known, self._tick)
        for t in range(known + 1, tick + 1):  # block t % blocks holds the draws of the latest tick t
            start = (t % self._blocks) * self._block
            stream = streams.generator(*self.words, t, device=self._pool.device)
            block = self._pool[start : start + self._block]
            self.lent[:] = [part.clone() if _overlap(part, block) else part for part in self.lent]
            block.normal_(generator=stream)
        self._tick = tick
        room = len(self._pool) - self._size + 1
        offset = int.from_bytes(streams.digest(*self.words, "offset", tick)[:8], "little") % room
        return self._pool[offset : offset + self._size]


def _overlap(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() < b.data_ptr() + b.nbytes and b.data_ptr() < a.data_ptr() + a.nbytes
