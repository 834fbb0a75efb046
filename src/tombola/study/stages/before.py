"""Stage that prunes an untrained network once, to a level's share."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tombola import streams
from tombola.pruning.iterate import prune_ticket, scores_of
from tombola.pruning.scores import AT_START
from tombola.pruning.ticket import Ticket
from tombola.pruning.units import Units
from tombola.settings import PruneSettings, TrainSettings
from tombola.settings.keys import canonical
from tombola.training.at_start import Untrained, start_scores
from tombola.training.work import likelihood_of

from .base import Outcome, RunContext
from .masks import Prune

_EXAMPLES = 512  # by which gradients are scored: a few batches, as the papers use


@dataclass(frozen=True, kw_only=True, eq=False)
class PruneBefore(Prune):
    """Dense start, pruned at once to the share that the chain would have at `level`. Parents: the start, twice."""

    level: int
    train: TrainSettings
    """Settings whose likelihood gives the gradients, in batches of their size."""

    @property
    def once(self) -> PruneSettings:
        """Return the rule whose first level prunes all."""
        if self.settings.group:
            return self.settings
        return replace(self.settings, target=None, fraction=1 - self.settings.share_left(self.level), levels=1)

    def describe(self) -> dict[str, Any]:
        once = self.once
        own = Prune.describe(replace(self, settings=once)) | {"before_training": self.level if once.group else 1}
        if once.score in AT_START:
            loss = canonical(self.train)
            own |= {k: loss[k] for k in ("likelihood", "noise_std", "label_smoothing", "batch_size") if k in loss}
            own |= self.source.describe()
        return own

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        start, rule = tickets[0], self.once
        costs = self._costs(start.layout, context) if rule.budget != "weights" else None
        stream, q = streams.generator("score", self.seed, self.key), start.rewind.posterior
        by_gradient, units = rule.score in AT_START, self._units(start.layout, context)
        scores = self._scores(start, context, units) if by_gradient else scores_of(q, rule.score, q.std, stream)
        level = self.level - 1 if rule.group else 0
        ticket = prune_ticket(start, start.rewind, rule, stream, costs=costs, level=level, scores=scores, units=units)
        info = start.info | {"level": self.level, "score": rule.score, "stage": self.key}
        return Outcome(replace(ticket, info=info))

    def _scores(self, start: Ticket, context: RunContext, units: Units | None) -> Tensor:
        data, size = context.data(self.source.settings), self.train.batch_size
        order = torch.randperm(len(data.train[0]), generator=streams.generator("score", self.seed, "examples"))
        chosen = order[:_EXAMPLES]
        inputs, targets = (part[chosen].to(context.device) for part in data.train)
        pieces = zip(data.prepare(inputs).split(size), targets.split(size), strict=True)
        batches = [piece for piece in pieces if len(piece[1]) > 1]  # batch norm cannot normalise one example
        state = start.rewind.to(context.device)
        likelihood = likelihood_of(self.train, state).to(context.device)
        module = self.net.build("skeleton").to(context.device)
        return start_scores(Untrained(module, state, likelihood, batches, units), self.once)
