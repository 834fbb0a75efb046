"""Ranks of scores: Spearman's rank correlation of each pair of scores on one trained Bayesian ticket."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import torch
from torch import Tensor

from tombola import plugins, streams
from tombola.inference import is_deterministic
from tombola.metrics import spearman
from tombola.pruning.scores import SCORES, WITHOUT_STD, evaluate
from tombola.pruning.ticket import Ticket

from ..graph import AnalysisRow, Row, analysis_row
from ..stages import Outcome, RunContext, Stage
from .chains import own_masks

RANKED = ("snr", "mu", "square", "snr_coded", "square_coded", "std_large")
"""Scores that are always compared; the study's curves add theirs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranks(Stage):
    """Rank correlation of scores over the surviving prunable weights of its parent, overall and as a mean over layers."""

    kind: ClassVar[str] = "ranks"
    scores: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        return {"scores": {name: plugins.source_digest(name, SCORES) for name in self.scores}}

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        (ticket,) = tickets
        q, layout = ticket.posterior, ticket.layout
        std = q.std
        everything, layers = [], []
        for segment in layout.prunable_segments():
            alive = segment.kept(ticket.mask)
            everything.append(self._values(q.mean[alive], None if std is None else std[alive], segment.name))
            layers.append(spearman(everything[-1]))
        whole, by_layer = spearman(torch.cat(everything, dim=1)), torch.stack(layers).nanmean(0)
        rows = []
        for i, j in combinations(range(len(self.scores)), 2):
            pair = {"a": 0, "b": 0, "density": ticket.density, "score_a": self.scores[i], "score_b": self.scores[j]}
            rows.append(pair | {"quantity": "spearman", "value": whole[i, j].item()})
            rows.append(pair | {"quantity": "spearman_by_layer", "value": by_layer[i, j].item()})
        return Outcome(None, {"rows": rows})

    def _values(self, mean: Tensor, std: Tensor | None, layer: str) -> Tensor:
        """Return the scores' values [scores, weights]."""
        values = []
        for name in self.scores:
            stream = streams.generator("ranks", self.key, layer, name)
            values.append(evaluate(name, plugins.resolve(name, SCORES, "score"), mean, std, stream))
        return torch.stack(values)


def ranks(rows: list[Row]) -> Iterator[AnalysisRow]:
    """Yield a stage for each trained Bayesian ticket of a curve that prunes."""
    known = [row for row in own_masks(rows) if not is_deterministic(row.trained.settings.method)]
    own = [name for row in known if (name := row.labels["score"]) not in WITHOUT_STD]
    scores = tuple(dict.fromkeys([*RANKED, *own]))
    for row in known:  # curves that share a dense training share its stage, but each has a row
        yield analysis_row("ranks", "scores", Ranks(parents=(row.trained,), scores=scores), [row])
