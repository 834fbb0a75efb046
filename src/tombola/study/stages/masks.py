"""What makes one untrained ticket of another: pruning, new weights, another mask, another network."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tombola import plugins, streams
from tombola.posterior.state import State
from tombola.pruning.iterate import prune_ticket, shuffled, transplanted
from tombola.pruning.scores import SCORES
from tombola.pruning.ticket import Ticket, with_mask

from .base import Outcome, RunContext, Stage


@dataclass(frozen=True, kw_only=True, eq=False)
class Prune(Stage):
    """The next level. Parents: the trained ticket, and where survivors restart (the same one: learning-rate rewinding)."""

    kind: ClassVar[str] = "prune"
    score: str
    fraction: float
    scope: str
    seed: int
    sigma: str = "trained"

    def describe(self) -> dict[str, Any]:
        source = plugins.source_digest(self.score, SCORES)
        own = {"score": self.score, "fraction": self.fraction, "scope": self.scope, "seed": self.seed}
        own |= {"sigma": self.sigma} if self.sigma != "trained" else {}
        return own | ({"source": source} if source else {})

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        trained, start = tickets
        ticket = prune_ticket(
            trained,
            _start_of(start),
            name=self.score,
            score=plugins.resolve(self.score, SCORES, "score"),
            fraction=self.fraction,
            scope=self.scope,
            sigma=self.sigma,
            generator=streams.generator("score", self.seed, self.key),
        )
        info = {k: v for k, v in trained.info.items() if k != "history"}
        return Outcome(
            replace(ticket, info=info | {"level": trained.info["level"] + 1, "score": self.score, "stage": self.key})
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Redraw(Stage):
    """Weights drawn anew, mask kept. Parents: the pruned ticket, the new dense start."""

    kind: ClassVar[str] = "redraw"

    def describe(self) -> dict[str, Any]:
        return {}

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        pruned, start = tickets
        return Outcome(with_mask(pruned, pruned.mask, _start_of(start)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Shuffle(Stage):
    """Mask shuffled, weights kept. Parents: the pruned ticket, the dense start."""

    kind: ClassVar[str] = "shuffle"
    how: str
    seed: int

    def describe(self) -> dict[str, Any]:
        return {"how": self.how, "seed": self.seed}

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        pruned, start = tickets
        stream = streams.generator("shuffle", self.seed, self.key)
        return Outcome(shuffled(pruned, _start_of(start), self.how, stream))


@dataclass(frozen=True, kw_only=True, eq=False)
class Transplant(Stage):
    """A deterministic ticket in a Bayesian network. Parents: the pruned deterministic ticket, the Bayesian start."""

    kind: ClassVar[str] = "transplant"

    def describe(self) -> dict[str, Any]:
        return {}

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        pruned, bayesian = tickets
        return Outcome(transplanted(pruned, bayesian.rewind))


def _start_of(ticket: Ticket) -> State:
    """Where to restart: a dense start, or what a shortened training reached."""
    return ticket.trained or ticket.rewind
