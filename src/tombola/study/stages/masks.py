"""Stages that make an untrained ticket of another: pruning, new weights, another mask, another network."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from tombola import plugins, streams
from tombola.pruning.iterate import prune_ticket, shuffled, transplanted
from tombola.pruning.scores import SCORES
from tombola.pruning.ticket import Ticket, with_mask
from tombola.settings import PruneSettings

from .base import Outcome, RunContext, Stage


@dataclass(frozen=True, kw_only=True, eq=False)
class Prune(Stage):
    """Next level. Parents: the trained ticket, and where survivors restart (the same one: learning-rate rewinding)."""

    kind: ClassVar[str] = "prune"
    settings: PruneSettings
    seed: int

    def describe(self) -> dict[str, Any]:
        how, source = self.settings, plugins.source_digest(self.settings.score, SCORES)
        own = {"score": how.score, "fraction": how.fraction, "scope": how.scope, "seed": self.seed}
        own |= {"sigma": how.sigma} if how.sigma != "trained" else {}
        return own | ({"source": source} if source else {})

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        trained, start = tickets
        stream = streams.generator("score", self.seed, self.key)
        ticket = prune_ticket(trained, start.end, self.settings, stream)
        info = {k: v for k, v in trained.info.items() if k != "history"}
        info |= {"level": trained.info["level"] + 1, "score": self.settings.score, "stage": self.key}
        return Outcome(replace(ticket, info=info))

    def of_mask(self, mask: Tensor, info: dict[str, Any], start: Ticket) -> Outcome:
        """Return its outcome from its mask and its ticket's info, which were kept, and its second parent."""
        return Outcome(replace(with_mask(start, mask, start.end), info=info))


@dataclass(frozen=True, kw_only=True, eq=False)
class Redraw(Stage):
    """Ticket with weights drawn anew and its mask kept. Parents: the pruned ticket, the new dense start."""

    kind: ClassVar[str] = "redraw"

    def describe(self) -> dict[str, Any]:
        return {}

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        pruned, start = tickets
        return Outcome(with_mask(pruned, pruned.mask, start.end))


@dataclass(frozen=True, kw_only=True, eq=False)
class Shuffle(Stage):
    """Ticket with its mask shuffled and weights kept. Parents: the pruned ticket, the dense start."""

    kind: ClassVar[str] = "shuffle"
    how: str
    seed: int

    def describe(self) -> dict[str, Any]:
        return {"how": self.how, "seed": self.seed}

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        pruned, start = tickets
        stream = streams.generator("shuffle", self.seed, self.key)
        return Outcome(shuffled(pruned, start.end, self.how, stream))


@dataclass(frozen=True, kw_only=True, eq=False)
class Transplant(Stage):
    """Deterministic ticket in a Bayesian network. Parents: the pruned deterministic ticket, the Bayesian start."""

    kind: ClassVar[str] = "transplant"

    def describe(self) -> dict[str, Any]:
        return {}

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        pruned, bayesian = tickets
        return Outcome(transplanted(pruned, bayesian.rewind))
