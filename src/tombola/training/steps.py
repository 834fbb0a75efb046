"""The steps of an epoch: one after another, or each a whole CUDA graph.

Legend: T steps of the schedule.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from tombola import streams
from tombola.data.feed import feed_of
from tombola.errors import TombolaError
from tombola.inference.ivon import IvonUpdate
from tombola.posterior.batch import Batch

from .optim import Joined, optimiser_tensors
from .work import Work

_WARM_UP = 3  # steps before a capture, in which libraries allocate and choose kernels; torch's documentation has 3


class Steps(Protocol):
    """Maker of the steps of trainings side by side."""

    def epoch(self, epoch: int, skip: int) -> Iterator[Sequence[Batch | None]]:
        """Make the steps of an epoch from the `skip`-th on; yield after each, with the trainings' batches where at hand."""
        ...


def steps_of(works: Sequence[Work]) -> Steps:
    """Return the steps of the settings."""
    return Captured(works) if works[0].training.settings.cuda_graphs else Eager(works)


class Eager:
    """Steps whose operations are launched one by one."""

    def __init__(self, works: Sequence[Work]):
        self._works = works

    def epoch(self, epoch: int, skip: int) -> Iterator[Sequence[Batch | None]]:
        batches = [work.training.batches for work in self._works]
        step, device = epoch * batches[0].steps + skip, self._works[0].losses.device
        for given in zip(*(own.epoch(epoch, skip) for own in batches), strict=True):
            for work, batch in zip(self._works, given, strict=True):
                streams.reseed_global("dropout", *work.training.dropout, step, device=device)
                work.step(batch, step)
            step += 1
            yield given


class Captured:
    """Steps that are captured once for each kind of batch and replayed: one launch in place of thousands.

    A step is a function of tensors alone: of two counters, of tables with the learning rate and the KL term's factor of each
    step, and of generators that are seeded before it. Each training is a branch of the graph with a stream of its own.
    The network must do the same work for every batch: nothing that depends on values, no transfer to the CPU. On a CPU the
    same function runs uncaptured.
    """

    def __init__(self, works: Sequence[Work]):
        self._works, self._device = works, works[0].losses.device
        self._step, self._row = (torch.zeros(1, dtype=torch.int64, device=self._device) for _ in range(2))
        self._branches = [_Branch(work) for work in works]
        self._generators = [held for work in works for held in work.learner.hold_generators()]
        self._graphs: dict[tuple[Any, ...], torch.cuda.CUDAGraph] = {}
        self._random = self._device.type == "cpu"
        if self._device.type == "cuda":
            self._sides = [torch.cuda.Stream(self._device) for _ in works[1:]]

    def epoch(self, epoch: int, skip: int) -> Iterator[Sequence[Batch | None]]:
        step = epoch * self._works[0].training.batches.steps + skip
        self._step.fill_(step)
        self._row.fill_(skip)
        for kinds in zip(*(branch.feed.steps(epoch, skip) for branch in self._branches), strict=True):
            if self._device.type == "cuda" and kinds not in self._graphs:
                self._graphs[kinds] = self._capture(kinds)
            for work in self._works:
                work.learner.seed(step)
            if self._device.type == "cpu":
                self._whole(kinds, step)
            else:
                if self._random:
                    self._reseed(self._works[0], step)
                self._graphs[kinds].replay()
            step += 1
            yield [None] * len(self._works)

    def _whole(self, kinds: Sequence[Any], step: int) -> None:
        self._all(kinds, step)
        self._step.add_(1)
        self._row.add_(1)

    def _all(self, kinds: Sequence[Any], step: int) -> None:
        """Make a step of every training. step: names the dropout of an uncaptured one."""
        if self._device.type == "cpu":
            for branch, kind in zip(self._branches, kinds, strict=True):
                self._reseed(branch.work, step)
                branch.make_step(self._step, self._row, kind, step)
            return
        main = torch.cuda.current_stream(self._device)
        for side in self._sides:
            side.wait_stream(main)  # before the first branch, or the others would wait for it
        for branch, kind, stream in zip(self._branches, kinds, [main, *self._sides], strict=True):
            with torch.cuda.stream(stream):
                branch.make_step(self._step, self._row, kind, step)
        for side in self._sides:
            main.wait_stream(side)

    def _reseed(self, work: Work, step: int) -> None:
        streams.reseed_global("dropout", *work.training.stream, step, device=self._device)

    def _capture(self, kinds: Sequence[Any]) -> torch.cuda.CUDAGraph:
        """Return the graph of a step. The warm-up before it leaves no trace in the trainings."""
        saved = [(work.learner.state(), _copied(work.optimiser)) for work in self._works]
        own = torch.cuda.default_generators[torch.empty(0, device=self._device).get_device()]
        before, state = own.get_offset(), torch.cuda.get_rng_state(self._device)
        warm = torch.cuda.Stream(self._device)
        warm.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(warm):
            for i in range(_WARM_UP):
                self._all(kinds, i - _WARM_UP - 1)
        torch.cuda.current_stream(self._device).wait_stream(warm)
        self._random = own.get_offset() != before
        if self._random and len(self._works) > 1:
            raise TombolaError(
                "trainings side by side cannot draw from torch's global randomness, as dropout; train one at once"
            )
        torch.cuda.set_rng_state(state, self._device)
        for work, (learned, optimiser) in zip(self._works, saved, strict=True):
            work.learner.restore(learned)
            for name, value in optimiser_tensors(work.optimiser).items():
                if name in optimiser:
                    value.copy_(optimiser[name])
                else:
                    value.zero_()  # the warm-up has begun it
        graph = torch.cuda.CUDAGraph()
        for held in self._generators:
            graph.register_generator_state(held)
        # thread_local: another thread, which reads the next batches, may pin memory during the capture
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._whole(kinds, -1)
        return graph


class _Branch:
    """One training's part of a captured step."""

    def __init__(self, work: Work):
        training, device = work.training, work.losses.device
        self.work, self.feed = work, feed_of(training.batches, device)
        steps = range(training.total)
        # fused optimisers on a GPU read a rate of 32 bits
        exact = torch.float32 if device.type == "cuda" else torch.float64
        self._rates_T = torch.tensor([training.rate(step) for step in steps], dtype=exact, device=device)
        warms_up = training.settings.kl_warmup_epochs > 0
        factors = [training.kl_factor(step) for step in steps] if warms_up else []
        self._kl_factors_T = torch.tensor(factors, device=device) if warms_up else None
        self._lrs = [torch.zeros((), dtype=exact, device=device) for _ in work.optimiser.param_groups]
        for part in work.optimiser.parts if isinstance(work.optimiser, Joined) else [work.optimiser]:
            if isinstance(part, IvonUpdate):
                part.capturable = True
            for group in part.param_groups:
                group["capturable"] = device.type == "cuda"
        for group, lr in zip(work.optimiser.param_groups, self._lrs, strict=True):
            group["lr"] = lr

    def make_step(self, step: Tensor, row: Tensor, kind: Any, name: int) -> None:
        """Make the step of number `step` of the schedule, [1], on batch `row` of the epoch, [1], which is of that kind."""
        work = self.work
        batch = self.feed.batch(row, kind)
        rate = self._rates_T.index_select(0, step).squeeze(0)
        for group, lr in zip(work.optimiser.param_groups, self._lrs, strict=True):
            torch.mul(rate, group["factor"], out=lr)
        factor = 1.0 if self._kl_factors_T is None else self._kl_factors_T.index_select(0, step)
        work.losses.index_copy_(0, row, work.update(batch, name, factor).view(1))


def _copied(optimiser: torch.optim.Optimizer | Joined) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in optimiser_tensors(optimiser).items()}
