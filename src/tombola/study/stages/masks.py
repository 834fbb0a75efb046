"""Stages that make an untrained ticket of another: pruning, new weights, another mask, another network."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from tombola import plugins, streams
from tombola.posterior.layout import Layout
from tombola.pruning.iterate import prune_ticket, shuffled, transplanted
from tombola.pruning.scores import AT_START, SCORES
from tombola.pruning.ticket import Ticket, with_mask
from tombola.pruning.units import Units, units_of
from tombola.settings import PruneSettings
from tombola.settings.keys import canonical
from tombola.training.costs import weight_costs

from .base import COUNTED, Net, Outcome, RunContext, Source, Stage


def built(net: Net, source: Source, context: RunContext) -> tuple[nn.Module, Tensor]:
    """Return a net, and a few of its training inputs."""
    data = context.data(source.settings)
    return net.build("skeleton").to(context.device), data.prepare(data.train[0][:COUNTED].to(context.device))


def found_units(structure: str, layout: Layout, net: Net, source: Source, context: RunContext) -> Units | None:
    """Return the units of a structure; None without one."""
    if structure == "none":
        return None
    module, inputs = built(net, source, context)
    return units_of(module, layout, inputs, structure)


@dataclass(frozen=True, kw_only=True, eq=False)
class Prune(Stage):
    """Next level. Parents: the trained ticket, and where survivors restart (the same one: learning-rate rewinding)."""

    kind: ClassVar[str] = "prune"
    settings: PruneSettings
    seed: int
    net: Net
    source: Source
    """Data of the examples for which costs are counted, and units are found."""

    def describe(self) -> dict[str, Any]:
        how = self.settings
        source = "" if how.score in AT_START else plugins.source_digest(how.score, SCORES)
        own = {"score": how.score, "fraction": how.fraction, "scope": how.scope, "seed": self.seed}
        own |= {"sigma": how.sigma} if how.sigma != "trained" else {}
        changed = canonical(how)
        own |= {name: changed[name] for name in ("budget", "target", "pattern", "structure") if name in changed}
        own |= {"cost_exponent": how.cost_exponent} if how.budget != "weights" else {}
        own |= {"costs": how.costs} if how.budget == "milliseconds" else {}
        own |= {"levels": how.levels} if how.target is not None else {}
        return own | ({"source": source} if source else {})

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        trained, start = tickets
        stream = streams.generator("score", self.seed, self.key)
        level = trained.info["level"]
        costs = self._costs(trained.layout, context) if self.settings.budget != "weights" else None
        units = self._units(trained.layout, context)
        ticket = prune_ticket(trained, start.end, self.settings, stream, costs=costs, level=level, units=units)
        info = {k: v for k, v in trained.info.items() if k != "history"}
        info |= {"level": level + 1, "score": self.settings.score, "stage": self.key}
        return Outcome(replace(ticket, info=info))

    def _costs(self, layout: Layout, context: RunContext) -> dict[str, float]:
        return weight_costs(self.settings, layout, *built(self.net, self.source, context))

    def _units(self, layout: Layout, context: RunContext) -> Units | None:
        return found_units(self.settings.structure, layout, self.net, self.source, context)

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
    structure: str
    net: Net
    source: Source
    """Data of the examples by which the units of a structure are found."""

    def describe(self) -> dict[str, Any]:
        return {"how": self.how, "seed": self.seed} | ({} if self.structure == "none" else {"structure": self.structure})

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        pruned, start = tickets
        stream = streams.generator("shuffle", self.seed, self.key)
        units = found_units(self.structure, pruned.layout, self.net, self.source, context)
        return Outcome(shuffled(pruned, start.end, self.how, stream, units))


@dataclass(frozen=True, kw_only=True, eq=False)
class Transplant(Stage):
    """Deterministic ticket in a Bayesian network. Parents: the pruned deterministic ticket, the Bayesian start."""

    kind: ClassVar[str] = "transplant"

    def describe(self) -> dict[str, Any]:
        return {}

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        pruned, bayesian = tickets
        return Outcome(transplanted(pruned, bayesian.rewind))
