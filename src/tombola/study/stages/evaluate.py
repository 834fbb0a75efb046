"""Stages that measure trained tickets."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from tombola.data.placement import fits
from tombola.inference import is_deterministic
from tombola.posterior.batch_norm import EXAMPLES
from tombola.pruning.ticket import Ticket
from tombola.settings import EvaluateSettings, TrainSettings
from tombola.settings.keys import canonical
from tombola.training.costs import kept_counts
from tombola.training.evaluate import evaluate_ticket
from tombola.training.further import file_digests, further_of, passes

from .base import Net, Outcome, RunContext, Source, Stage, operations_in


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement(Stage):
    """Stage whose cost is forward passes of tickets that `train` has trained."""

    net: Net
    source: Source
    settings: EvaluateSettings
    train: TrainSettings
    seed: int

    @property
    def is_random(self) -> bool:
        """Return whether the tickets have weights to draw."""
        return not is_deterministic(self.train.method)

    @property
    def one_measure(self) -> float:
        """Return the cost of batch-norm statistics, one forward pass over `EXAMPLES`, in training steps."""
        return EXAMPLES / (3 * self.train.batch_size * (self.train.samples if self.is_random else 1))

    def work(self, one_pass: float) -> float:
        """Return its cost in training steps. one_pass: that of a forward pass over the held-out examples."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluate(Measurement):
    """Metrics of a trained ticket on a held-out split."""

    kind: ClassVar[str] = "evaluate"

    def work(self, one_pass: float) -> float:
        one_pass *= 1 + passes(self.settings)
        if not self.is_random:
            return self.settings.repeats * one_pass
        own = self.settings.batch_norm == "samples" and self.net.norm.measures
        return self.settings.samples * self.settings.repeats * (one_pass + own * self.one_measure)

    def describe(self) -> dict[str, Any]:
        files = {"outside_files": found} if (found := file_digests(self.settings)) else {}
        return self.net.describe() | self.source.describe() | canonical(self.settings) | files | {"seed": self.seed}

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        (ticket,) = tickets
        data = context.data(self.source.settings)
        module = self.net.build("skeleton").to(context.device)
        placed = data.on(context.device) if fits(data, context.device) else data  # S samples read the examples S times
        examples = placed.held_out(self.settings.split)[0], data.held_out(self.settings.split)[1]
        stream, training = (self.seed, self.key), data.train[0]
        further = further_of(data, self.settings)
        measured = evaluate_ticket(
            module, ticket, examples, training, self.settings, self.train, stream, context.device, data.prepare, further
        )
        operations = operations_in(self.net, data, context.device)
        kept = kept_counts(ticket.layout, ticket.mask)
        left = math.nan if operations is None else operations.left(ticket.layout, kept)
        return Outcome(None, measured | {"flops_left": left})
