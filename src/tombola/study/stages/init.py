"""Stage that draws the dense start."""

from dataclasses import dataclass
from typing import Any, ClassVar

from tombola.models.weights import fingerprint, load_weights
from tombola.posterior.state import initial_state, layout_of
from tombola.pruning.ticket import Ticket, ticket_of
from tombola.settings import PosteriorSettings, PruneSettings
from tombola.settings.keys import canonical

from .base import Net, Outcome, RunContext, Stage


@dataclass(frozen=True, kw_only=True, eq=False)
class Init(Stage):
    """Dense start. `draw` distinguishes the first drawing of the weights from re-drawn ones."""

    kind: ClassVar[str] = "init"
    net: Net
    posterior: PosteriorSettings
    prune: PruneSettings
    seed: int
    draw: str = "first"

    def describe(self) -> dict[str, Any]:
        # of the pruning settings those that decide what is prunable: the others do not change the start
        roles = {name: v for name, v in canonical(self.prune).items() if name in ("classifier", "include", "exclude")}
        own = self.net.describe() | canonical(self.posterior) | roles | {"seed": self.seed, "draw": self.draw}
        return own | ({"weights": fingerprint(self._weights)} if self._weights else {})

    @property
    def _weights(self) -> str:
        return self.net.settings.weights if self.draw == "first" else ""  # re-drawn weights are not pre-trained

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        module = self.net.build(self.seed, self.draw)
        if self._weights:
            load_weights(module, self._weights)
        layout = layout_of(module, self.posterior, self.prune)
        state = initial_state(module, layout, self.posterior, self.seed, self.draw, self.net.identity)
        info = {
            "model": self.net.info(),
            "seed": self.seed,
            "level": 0,
            "settings": {"posterior": canonical(self.posterior)},
        }
        return Outcome(ticket_of(state, info))
