"""A measurement."""

from dataclasses import dataclass
from typing import Any, ClassVar

from tombola.pruning.ticket import Ticket
from tombola.settings import EvaluateSettings, TrainSettings
from tombola.settings.keys import canonical
from tombola.training.evaluate import evaluate_ticket

from .base import Net, Outcome, Source, Stage, Surroundings


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluate(Stage):
    """Metrics of a trained ticket on a held-out split."""

    kind: ClassVar[str] = "evaluate"
    net: Net
    source: Source
    settings: EvaluateSettings
    train: TrainSettings
    seed: int

    def describe(self) -> dict[str, Any]:
        return self.net.describe() | self.source.describe() | canonical(self.settings) | {"seed": self.seed}

    def run(self, tickets: list[Ticket], around: Surroundings) -> Outcome:
        (ticket,) = tickets
        data = around.data(self.source.settings)
        module = self.net.build("skeleton").to(around.device)
        words, examples = (self.seed, self.key), data.held_out(self.settings.split)
        return Outcome(
            None,
            evaluate_ticket(module, ticket, examples, self.settings, self.train, words, around.device, data.prepare),
        )
