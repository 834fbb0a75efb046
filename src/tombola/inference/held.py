"""A weight sample whose gradients never reach main memory: an optimiser takes them block by block.

Legend: P parameters of the layout, of which the first n are random.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .estimators.sample import WeightSample, write_std

_BLOCK = 1 << 16  # parameters at a time: smaller ones fit the cache better, but Python then takes longer than arithmetic


@dataclass(frozen=True, slots=True)
class Block:
    """Views of one stretch of the flat order."""

    random: bool
    mean: Tensor
    log_std: Tensor
    std: Tensor
    theta: Tensor
    grad: Tensor
    mean_sum: Tensor
    log_std_sum: Tensor
    keep: Tensor | None
    prior: Tensor | None
    mean_grad: Tensor
    """This and what follows is scratch that all blocks share."""
    log_std_grad: Tensor
    entropy: Tensor


class HeldSample:
    """`sample`, but `finish` only notes what is due. Then `sweep` makes the gradients of a block of mean and log_std, lets
    the optimiser change that block and draws the next sample there, all while the block is in the cache.
    """

    def __init__(self, sample: WeightSample, edges: Iterable[int]):
        """edges: where the optimiser's groups begin and end in the flat order; no block goes over one."""
        self._sample, self.theta, self.grad = sample, sample.theta, sample.grad
        size = _BLOCK * torch.get_num_threads()  # each thread gets its part of an operation
        self._scratch = torch.zeros(3, size, dtype=self.theta.dtype, device=self.theta.device)
        self._entropy = self._scratch[2]
        ends = sorted({0, sample.n, len(self.theta), *edges})
        self.blocks = [
            self._block(slice(start, min(start + size, stop)))
            for begin, stop in pairwise(ends)
            for start in range(begin, stop, size)
        ]
        self._sizes = [len(b.mean) for b in self.blocks if b.random]
        self._drawn: int | None = None
        self._shown = False
        self._due: tuple[bool, float, float] | None = None

    def draw(self, tick: int, first: bool) -> None:
        """As `WeightSample.draw`; nothing is left to do where `sweep` has drawn that sample."""
        if self._shown and tick == self._drawn:
            return
        eps = self._noise(tick)
        for b, e in zip(self.blocks, eps, strict=False):
            _show(b, e, first)
        for b in self.blocks[len(eps) :]:
            _show_rest(b)
        self._shown = True

    def forget(self) -> None:
        """Says that `theta` or what it is drawn from has changed: the next sample is drawn anew."""
        self._shown = False

    def publish(self) -> None:
        """Makes the sample's mean and log_std what they now are: here they always are."""

    def reload(self) -> None:
        """Says that the sample's mean and log_std were written."""
        self.forget()

    def owns(self, tensor: Tensor) -> bool:
        """Whether it is part of the mean or of log_std."""
        own = {t.untyped_storage().data_ptr() for t in (self._sample.mean, self._sample.log_std)}
        return tensor.untyped_storage().data_ptr() in own

    def forward(self) -> AbstractContextManager:
        return self._sample.forward()

    def accumulate(self, first: bool) -> None:
        self._sample.accumulate(first)

    def finish(self, first: bool, kl_weight: float, prior_std: float) -> None:
        """Notes what the gradients depend on; `sweep` makes them."""
        self._due = first, kl_weight, prior_std

    def sweep(self) -> Iterator[tuple[Tensor, ...]]:
        """The gradients of mean and log_std, where deterministic of mean alone, of each of `blocks`, from the last to the
        first. A block is to be updated before the next is asked for. Afterwards the sample of the next tick is drawn.
        """
        assert self._due is not None, "no gradients: `finish` comes first"
        assert self._drawn is not None
        (first, kl_weight, prior_std), self._due = self._due, None
        scaled = kl_weight / prior_std**2
        self._entropy.fill_(-kl_weight)
        now = self._sample.noise.lent = self._by_block()
        after = self._noise(self._drawn + 1)
        self._sample.noise.lent = []
        for i in range(len(self.blocks) - 1, -1, -1):  # from the back: the forward pass begins with what is in the cache
            b = self.blocks[i]
            grad = b.grad if first else torch.add(b.mean_sum, b.grad, out=b.mean_grad)
            if b.keep is not None:
                grad = torch.mul(grad, b.keep, out=b.mean_grad)
            if b.random:
                _write_gradients(b, grad, now[i], first, scaled)
                yield b.mean_grad, b.log_std_grad
                _show(b, after[i], True)
            else:
                yield (grad,)
                _show_rest(b)
        self._shown = True

    def _noise(self, tick: int) -> list[Tensor]:
        """That of the tick, by block."""
        self._drawn, self._sample._eps = tick, self._sample._noise(tick)
        return self._by_block()

    def _by_block(self) -> list[Tensor]:
        assert self._sample._eps is not None
        return list(self._sample._eps.split(self._sizes))

    def _block(self, where: slice) -> Block:
        s, random = self._sample, where.start < self._sample.n
        mean_grad, log_std_grad, entropy = (t[: where.stop - where.start] for t in self._scratch)
        return Block(
            random=random,
            mean=s.mean[where],
            log_std=s.log_std[where],
            std=s._std[where],  # empty where deterministic
            theta=s.theta[where],
            grad=s.grad[where],
            mean_sum=s.mean_grad[where],
            log_std_sum=s.log_std_grad[where],
            keep=None if s._keep is None else s._keep[where],
            prior=None if s._prior is None else s._prior[where],
            mean_grad=mean_grad,
            log_std_grad=log_std_grad,
            entropy=entropy,
        )


def _write_gradients(b: Block, grad: Tensor, eps: Tensor, first: bool, scaled: float) -> None:
    """As `WeightSample.finish`. grad: the data's part of the mean's, of all samples."""
    if first:
        torch.mul(b.grad, eps, out=b.log_std_grad)
    else:
        torch.addcmul(b.log_std_sum, b.grad, eps, out=b.log_std_grad)
    b.log_std_grad.add_(b.std, alpha=scaled)
    torch.addcmul(b.entropy, b.log_std_grad, b.std, out=b.log_std_grad)
    if b.keep is not None:
        b.log_std_grad.mul_(b.keep)
    torch.add(grad, b.mean, alpha=scaled, out=b.mean_grad)
    if b.prior is not None:
        b.mean_grad.sub_(b.prior, alpha=scaled)


def can_hold(sample: WeightSample) -> bool:
    """Whether a `HeldSample` gives the gradients of `sample`: not of an estimator that has its own."""
    own = type(sample)
    return all(getattr(own, name) is getattr(WeightSample, name) for name in ("draw", "accumulate", "finish"))


def _show(b: Block, eps: Tensor, first: bool) -> None:
    """As `WeightSample.draw`."""
    if first:
        write_std(b.mean, b.log_std, b.std, b.keep)
    torch.addcmul(b.mean, b.std, eps, out=b.theta)


def _show_rest(b: Block) -> None:
    if b.keep is not None:
        b.mean.mul_(b.keep)
    b.theta.copy_(b.mean)
