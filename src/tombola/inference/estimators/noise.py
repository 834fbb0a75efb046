"""Standard normal noise for weights and for outputs, of which each tick (one weight sample) draws a fraction anew."""

import math
import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tombola import streams

_SMALLEST_BLOCK = 1024


class NoisePool:
    """A window of `size` normal draws for each tick (one weight sample), a function of the stream and the tick alone.

    On a CPU a normal draw costs 5 ns, more than the whole rest of a weight sample. So a pool of a little more than `size`
    draws is kept; each tick renews one block (the fraction `refresh` of it) and reads the pool from another offset. Within a
    tick all draws are independent; a parameter gets the same number again only if another tick has the same offset.
    refresh = 1 draws everything anew.
    """

    def __init__(self, size: int, stream: streams.Name, refresh: float, like: Tensor):
        # few parameters have few offsets and would soon get the same draws again: all of their noise is new
        blocks = max(1, min(round(1 / refresh), size // _SMALLEST_BLOCK))
        self._block = math.ceil(size / blocks)
        self._blocks = blocks if blocks == 1 else blocks + 1  # one to spare, so that the window can move
        self._size, self.stream, self.refresh = size, stream, refresh
        self._pool = torch.empty(self._block * self._blocks, dtype=like.dtype, device=like.device)
        self._tick: int | None = None
        self._held: list[torch.Generator] = []
        self._uses = 0

    def window(self, tick: int) -> Tensor:
        """Return the noise of that tick, [size], a view that the next call overwrites. Ascending ticks are cheap."""
        if self._held:
            return self._drawn_by_held(tick)
        known = tick - self._blocks  # each block holds the draws of one of the last `blocks` ticks, negative ones included
        if self._tick is not None and self._tick <= tick:
            known = max(known, self._tick)
        for t in range(known + 1, tick + 1):
            start = (t % self._blocks) * self._block
            generator = streams.generator(*self.stream, t, device=self._pool.device)
            self._pool[start : start + self._block].normal_(generator=generator)
        self._tick = tick
        room = len(self._pool) - self._size + 1
        offset = int.from_bytes(streams.digest(*self.stream, "offset", tick)[:8], "little") % room
        return self._pool[offset : offset + self._size]

    def hold(self, ticks: int) -> list[torch.Generator]:
        """Draw from now on by these generators, one for each of a step's ticks in turn, which `seed` sets to their streams.

        A step can then be captured in a CUDA graph: nothing in it depends on a tick. Only where all noise is new.
        """
        assert self._blocks == 1, "check_graphs refuses a pool"
        self._held = [torch.Generator(self._pool.device) for _ in range(ticks)]
        self._tick, self._uses = None, 0
        return self._held

    def seed(self, ticks: Sequence[int]) -> None:
        """Set the held generators to the streams of the next step's ticks."""
        for held, tick in zip(self._held, ticks, strict=True):
            streams.rename(held, *self.stream, tick)

    def _drawn_by_held(self, tick: int) -> Tensor:
        if tick != self._tick:  # the second of an antithetic pair has the first one's draws
            self._pool.normal_(generator=self._held[self._uses % len(self._held)])
            self._uses += 1
        self._tick = tick
        return self._pool[: self._size]


_POOL = 1 << 20  # draws that are kept: 4 MB stay in a third-level cache
_BLOCK = 1 << 17  # outputs at a time: a block of each tensor in use stays in the second-level cache


class OutputNoise:
    """Noise for every output of a forward pass, a function of the stream, the tick and the order of operations alone.

    A convolutional network has a hundred times more outputs than weights, and on a CPU a normal draw costs about as much as
    all other arithmetic of local reparameterisation. So a pool of a million draws is kept, of which each tick renews the
    fraction `refresh`, and every block of outputs reads it from an offset of its own. Within a block all draws are
    independent; two blocks may share draws, at other places. refresh = 1 draws everything anew, and so does an operation
    whose outputs are no more than what a tick renews, and a GPU.
    """

    def __init__(self, stream: streams.Name, refresh: float, like: Tensor):
        self._name, self._device, self._dtype = stream, like.device, like.dtype
        pooled = refresh < 1 and like.device.type == "cpu"
        self._pool = NoisePool(_POOL, (*stream, "pool"), refresh, like) if pooled else None
        self._few = refresh * _POOL if pooled else math.inf  # up to so many outputs, new draws cost no more than a renewal
        self.begin(0)

    def begin(self, tick: int) -> None:
        """Start a forward pass: the next outputs are the first of that tick."""
        self._tick = tick
        self._generator: torch.Generator | None = None
        self._window: Tensor | None = None

    def blocks(self, count: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield noise for the next `count` outputs, part by part; a part is overwritten by the next."""
        size = _BLOCK if self._device.type == "cpu" else max(count, 1)
        parts = [slice(start, min(start + size, count)) for start in range(0, count, size)]
        if count <= self._few:
            fresh = torch.empty(min(size, count), dtype=self._dtype, device=self._device)
            for part in parts:
                yield part, fresh[: part.stop - part.start].normal_(generator=self._draws())
        else:
            window = self._shown()
            for part in parts:
                start = self._offsets.randrange(len(window) - size + 1)
                yield part, window[start : start + part.stop - part.start]

    def signs(self, shape: Sequence[int]) -> Tensor:
        """Return -1 or 1 with equal chances."""
        sign = torch.empty(tuple(shape), dtype=self._dtype, device=self._device)
        return sign.bernoulli_(0.5, generator=self._draws()).mul_(2).sub_(1)

    def _draws(self) -> torch.Generator:
        if self._generator is None:
            self._generator = streams.generator(*self._name, self._tick, device=self._device)
        return self._generator

    def _shown(self) -> Tensor:
        if self._window is None:  # made when first asked for: a network of small operations never renews the pool
            assert self._pool is not None, "everything is drawn anew"
            self._window = self._pool.window(self._tick)
            self._offsets = random.Random(streams.digest(*self._name, "offsets", self._tick))
        return self._window
