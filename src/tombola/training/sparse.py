"""Masks that change within one training: gradual pruning, and dropping and growing at a constant number of weights.

gradual is of Zhu & Gupta 2017, set of Mocanu et al. 2018, rigl of Evci et al. 2020, ssvi of Li et al. 2024 (Sparse Subspace
Variational Inference). A grown weight starts with mean 0, in a Gaussian with its layer's std at the start; SET's paper draws
new values. Optimiser states of weights that come or go are zero.

Legend: P parameters of the layout.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tombola import streams
from tombola.inference import VI, Map
from tombola.posterior.batch import Batch
from tombola.posterior.state import State
from tombola.pruning.iterate import scores_of
from tombola.pruning.masks import GROUPS, SHUFFLES, drop_lowest, prune, prune_count
from tombola.settings import SparseSettings

from .optim import Joined

Optimiser = torch.optim.Optimizer | Joined


@dataclass(frozen=True)
class Kept:
    """Averages over the steps of a changing mask, for counts of operations."""

    counts: dict[str, float]
    """Weights of each prunable parameter, averaged over the steps."""
    grown: int
    """Changes for which a gradient of all weights was needed."""


class ChangingMask:
    """The mask of a learner at work: changes after some steps, and counts of what was kept in each step."""

    def __init__(self, learner: VI | Map, settings: SparseSettings, start: State, total: int, stream: streams.Name):
        """Prepare a training of `total` steps. A dense `start` gets its first mask here; a sparse one keeps its own."""
        self.learner, self.settings, self._stream = learner, settings, stream
        self._first, self._last = round(settings.begin * total), max(1, round(settings.until * total))
        self.layout = learner.layout
        self._log_std = _typical_log_std(start)
        self.mask = learner.mask.cpu()
        """Present mask, bool [P] on the CPU."""
        self._began = self._density
        self.steps, self.grown = 0, 0
        """Numbers of steps made, and of changes by a dense gradient."""
        self.kept = torch.zeros(len(self.layout.prunable_segments()), dtype=torch.float64)
        """Sum over the steps of the weights that each prunable segment kept."""
        if settings.way != "gradual" and bool(self.mask.all()):
            self._set(self._random_start())

    @property
    def _density(self) -> float:
        return self.mask[self.layout.prunable].double().mean().item()

    def after(self, step: int, batch: Batch, optimiser: Optimiser) -> None:
        """Count a step (from 0), and change the mask if it is time."""
        self.steps += 1
        self.kept += torch.tensor([int(self.mask[s.slice].sum()) for s in self.layout.prunable_segments()])
        done, own = step + 1, self.settings
        if own.way == "gradual":
            if done == self._last or (self._first <= done < self._last and (done - self._first) % own.every == 0):
                self._change(self._pruned(done, step), optimiser)
        elif self._first <= done < self._last and done % own.every == 0:
            self._change(self._moved(done, step, batch), optimiser)

    @property
    def summary(self) -> Kept:
        """Return the averages over all steps that were made."""
        names = [s.name for s in self.layout.prunable_segments()]
        return Kept(dict(zip(names, (self.kept / max(1, self.steps)).tolist(), strict=True)), self.grown)

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a checkpoint needs."""
        return {"mask": self.mask, "kept": self.kept, "counts": torch.tensor([self.steps, self.grown])}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` returned."""
        self._set(tensors["mask"].cpu())
        self.kept = tensors["kept"].cpu()
        self.steps, self.grown = map(int, tensors["counts"])

    def _random_start(self) -> Tensor:
        generator = streams.generator("sparse", *self._stream, "start")
        fraction = 1 - self.settings.density
        if self.settings.start == "even":
            pruned = prune(self.layout, self.mask, torch.zeros(len(self.mask)), fraction, "global")
            return SHUFFLES["even"](self.layout, pruned, generator)
        drawn = self.layout.of_row_major(torch.rand(len(self.mask), generator=generator))
        return prune(self.layout, self.mask, drawn, fraction, "erk")

    def _scores(self, step: int) -> Tensor:
        generator, q = streams.generator("sparse", *self._stream, "drop", step), self.learner.state().posterior
        return scores_of(q, self.settings.score, q.std, generator)

    def _pruned(self, done: int, step: int) -> Tensor:
        """Return the mask of the density after `done` steps (Zhu & Gupta 2017, equation 1, of the density)."""
        own = self.settings
        part = min(1.0, (done - self._first) / max(1, self._last - self._first))
        density = own.density + (self._began - own.density) * (1 - part) ** 3
        alive, prunable = int(self.mask[self.layout.prunable].sum()), int(self.layout.prunable.sum())
        gone = alive - round(density * prunable)
        if gone <= 0:
            return self.mask
        return prune(self.layout, self.mask, self._scores(step), gone / alive, own.within)

    def _moved(self, done: int, step: int, batch: Batch) -> Tensor:
        """Return a mask of as many weights: the lowest are dropped, and the places with the highest value grow.

        As in RigL, a weight that has just been dropped may grow at once; it then keeps its value.
        """
        share = self.settings.fraction / 2 * (1 + math.cos(math.pi * done / self._last))
        scores, mask = self._scores(step), self.mask.clone()
        if self.settings.way == "set":
            generator = streams.generator("sparse", *self._stream, "grow", step)
            worth = self.layout.of_row_major(torch.rand(len(mask), generator=generator))
        else:
            worth = self.learner.dense_gradient(batch).abs().cpu()
            self.grown += 1
        for where in GROUPS[self.settings.within](self.layout):
            alive = where[mask[where]]
            count = prune_count(len(alive), share)
            mask[alive] = drop_lowest(scores[alive], count)
            free = where[~mask[where]]
            mask[free] = drop_lowest(worth[free], len(free) - count)
        return mask

    def _change(self, mask: Tensor, optimiser: Optimiser) -> None:
        changed = (mask ^ self.mask).to(self.learner.mask.device)
        self._set(mask)
        for moment, where in _moments(self.learner, optimiser):
            moment[changed[where]] = 0

    def _set(self, mask: Tensor) -> None:
        """Give the learner another mask; the weights that come have mean 0 and a typical std."""
        device = self.learner.mask.device
        new = (mask & ~self.mask).to(device)
        self.learner.change_mask(mask.to(device))
        if self._log_std is not None and isinstance(self.learner, VI):
            self.learner.log_std[new] = self._log_std.to(device)[new]
        self.mask = mask


def _typical_log_std(start: State) -> Tensor | None:
    """Return, for each parameter, the mean log_std of its segment's survivors at the start, [P]; None of a point."""
    if (std := start.posterior.std) is None:
        return None
    found, std = torch.zeros(len(std)), std.cpu()
    for segment in start.posterior.layout.segments:
        own = std[segment.slice]
        if bool((own > 0).any()):
            found[segment.slice] = own[own > 0].log().mean()
    return found


def _moments(learner: VI | Map, optimiser: Optimiser) -> Iterator[tuple[Tensor, slice]]:
    """Yield the optimiser's states of means and log_stds, and their places in the flat order."""
    parts = optimiser.parts if isinstance(optimiser, Joined) else [optimiser]
    flats = [learner.mean, learner.log_std] if isinstance(learner, VI) else [learner.mean]
    memories = {flat.untyped_storage().data_ptr() for flat in flats}
    for part in parts:
        for p, entries in part.state.items():
            if p.untyped_storage().data_ptr() in memories:
                where = slice(p.storage_offset(), p.storage_offset() + p.numel())
                yield from (
                    (value, where) for value in entries.values() if torch.is_tensor(value) and value.shape == p.shape
                )
