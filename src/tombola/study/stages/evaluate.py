"""Stages that measure trained tickets."""

from dataclasses import dataclass
from typing import Any, ClassVar

from tombola.inference import is_deterministic
from tombola.pruning.ticket import Ticket
from tombola.settings import EvaluateSettings, TrainSettings
from tombola.settings.keys import canonical
from tombola.training.evaluate import evaluate_ticket

from .base import Net, Outcome, RunContext, Source, Stage


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

    def work(self, one_pass: float) -> float:
        """Return its cost in training steps. one_pass: that of a forward pass over the held-out examples."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluate(Measurement):
    """Metrics of a trained ticket on a held-out split."""

    kind: ClassVar[str] = "evaluate"

    def work(self, one_pass: float) -> float:
        return (self.settings.samples if self.is_random else 1) * self.settings.repeats * one_pass

    def describe(self) -> dict[str, Any]:
        return self.net.describe() | self.source.describe() | canonical(self.settings) | {"seed": self.seed}

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        (ticket,) = tickets
        data = context.data(self.source.settings)
        module = self.net.build("skeleton").to(context.device)
        stream, examples = (self.seed, self.key), data.held_out(self.settings.split)
        return Outcome(
            None,
            evaluate_ticket(module, ticket, examples, self.settings, self.train, stream, context.device, data.prepare),
        )
