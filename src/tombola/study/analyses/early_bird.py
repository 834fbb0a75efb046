"""Early-bird tickets: how early in dense training the mask of a score settles. You et al. 2020."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from tombola import streams
from tombola.inference import is_deterministic
from tombola.posterior.state import State
from tombola.pruning.masks import prune
from tombola.pruning.overlap import jaccard, mask_distance, overlap_by_chance
from tombola.pruning.scores import SCORES, evaluate
from tombola.pruning.ticket import Ticket

from ..graph import AnalysisRow, Row, analysis_row
from ..stages import Outcome, RunContext, Stage, Train
from .chains import once, own_masks

DENSITIES = (0.5, 0.2, 0.05)
"""Densities of the prunable weights, ranked all together."""
_BAYESIAN, _DETERMINISTIC = ("snr", "mu"), ("magnitude",)

Masks = dict[tuple[str, float], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class EarlyBird(Stage):
    """Masks after each epoch of a training against its final masks. Parents: the dense start, the training.

    The training is run again, with the same bits, because its ticket has only its final state.
    """

    kind: ClassVar[str] = "early_bird"
    scores: tuple[str, ...]
    densities: tuple[float, ...] = DENSITIES

    def describe(self) -> dict[str, Any]:
        return {"scores": list(self.scores), "densities": list(self.densities)}

    @property
    def training(self) -> Train:
        _, trained = self.parents
        assert isinstance(trained, Train)
        return trained

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        start, trained = tickets
        assert trained.trained is not None
        final = self._masks(trained.trained)
        before: Masks = {}
        rows: list[dict[str, Any]] = []

        def look(epochs: int, state: State) -> None:
            now = self._masks(state)
            for (score, density), mask in now.items():
                row = {"a": 0, "b": 0, "x": epochs, "score_a": score, "density": density}
                kept = [_counts(trained, m) for m in (mask, final[score, density])]
                common = float((mask & final[score, density])[trained.layout.prunable].sum())
                found = {"value": jaccard(common, sum(kept[0]), sum(kept[1]))}
                rows.append(row | found | {"quantity": "jaccard_final", "chance": overlap_by_chance(_sizes(trained), *kept)})
                for quantity, other in (("distance_final", final), ("distance_previous", before)):
                    if other:
                        prunable = trained.layout.prunable
                        value = mask_distance(mask[prunable], other[score, density][prunable])
                        rows.append(row | {"quantity": quantity, "value": value})
            before.update(now)

        look(0, start.rewind)
        self.training.run([start], replace(context, checkpoint=None, on_state=look))
        return Outcome(None, {"rows": rows})

    def _masks(self, state: State) -> Masks:
        """Return (score, density) -> mask [P]."""
        q = state.to("cpu").posterior
        std = q.std
        where, dense = q.layout.prunable, torch.ones(q.layout.numel, dtype=torch.bool)
        found: Masks = {}
        for name in self.scores:
            values = torch.zeros(q.layout.numel, dtype=torch.float64)
            stream = streams.generator("early_bird", name)  # required, though none of these scores draws
            values[where] = evaluate(name, SCORES[name], q.mean[where], None if std is None else std[where], stream)
            for density in self.densities:
                found[name, density] = prune(q.layout, dense, values, 1 - density, "global")
        return found


def early_bird(rows: list[Row]) -> Iterator[AnalysisRow]:
    """Yield a stage for each dense training of a curve that prunes."""
    dense = [row for row in own_masks(rows) if row.labels["level"] == 0]
    for row in once(dense, lambda row: row.trained):
        trained = row.trained
        scores = _DETERMINISTIC if is_deterministic(trained.settings.method) else _BAYESIAN
        stage = EarlyBird(parents=(trained.parents[0], trained), scores=scores)
        yield analysis_row("early_bird", "epochs", stage, [row])


def _sizes(ticket: Ticket) -> list[int]:
    return [s.numel for s in ticket.layout.prunable_segments()]


def _counts(ticket: Ticket, mask: Tensor) -> list[int]:
    return [int(mask[s.slice].sum()) for s in ticket.layout.prunable_segments()]
