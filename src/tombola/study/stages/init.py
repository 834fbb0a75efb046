"""Stage that draws the dense start."""

from dataclasses import dataclass
from typing import Any, ClassVar

from tombola.models import FitsFirstLayer
from tombola.models.weights import fingerprint, load_weights
from tombola.posterior.state import initial_state, layout_of
from tombola.pruning.scores import warn_of_bare
from tombola.pruning.ticket import Ticket, ticket_of
from tombola.settings import PosteriorSettings, PruneSettings
from tombola.settings.keys import canonical

from .base import Net, Outcome, RunContext, Source, Stage

_FITTED = 2000  # images that a first layer is fitted to: millions of patches


@dataclass(frozen=True, kw_only=True, eq=False)
class Init(Stage):
    """Dense start."""

    kind: ClassVar[str] = "init"
    net: Net
    posterior: PosteriorSettings
    prune: PruneSettings
    seed: int
    draw: str = "first"
    """"first", or "redrawn": other weights of the same seed."""
    source: Source | None = None
    """Data that the first layer is fitted to; None of a net that needs no data for its start."""

    def describe(self) -> dict[str, Any]:
        # of the pruning settings those that decide what is prunable: the others do not change the start
        roles = {name: v for name, v in canonical(self.prune).items() if name in ("classifier", "include", "exclude")}
        own = self.net.describe() | canonical(self.posterior) | roles | {"seed": self.seed, "draw": self.draw}
        own |= {"deterministic": list(self._cancelled)} if self._cancelled else {}
        own |= {"data": self.source.describe()} if self.source else {}
        return own | ({"weights": fingerprint(self._weights)} if self._weights else {})

    @property
    def _cancelled(self) -> tuple[str, ...]:
        """Return the biases that are deterministic because a batch norm takes them out."""
        return self.net.norm.cancelled if self.posterior.random is None else ()

    @property
    def _weights(self) -> str:
        return self.net.settings.weights if self.draw == "first" else ""  # re-drawn weights are not pre-trained

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        module = self.net.build(self.seed, self.draw)
        if self._weights:
            load_weights(module, self._weights)
        elif self.source and isinstance(module, FitsFirstLayer):
            data = context.data(self.source.settings)
            rows = slice(None, None, -(-len(data.train[0]) // _FITTED))  # from all of it: files may be sorted by class
            module.fit_first_layer(data.prepare(data.train[0][rows]))
        layout = layout_of(module, self.posterior, self.prune, self._cancelled)
        warn_of_bare(layout)
        state = initial_state(module, layout, self.posterior, self.seed, self.draw, self.net.identity)
        info = {
            "model": self.net.info(),
            "seed": self.seed,
            "level": 0,
            "settings": {"posterior": canonical(self.posterior)},
        }
        return Outcome(ticket_of(state, info))
