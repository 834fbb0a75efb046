"""Overlap of masks: the weights that two tickets share, between seeds and between curves of one seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import torch

from tombola.errors import TombolaError
from tombola.pruning.overlap import jaccard, layer_masks, overlap_by_chance
from tombola.pruning.ticket import Ticket

from ..graph import AnalysisRow, Row, analysis_row
from ..stages import Outcome, RunContext, Stage
from .chains import grouped, mask_of, once, own_masks


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlap(Stage):
    """Jaccard index of the masks of each pair of its parents, and that of random masks of the same layer densities."""

    kind: ClassVar[str] = "overlap"

    def describe(self) -> dict[str, Any]:
        return {}

    def run(self, tickets: list[Ticket], context: RunContext) -> Outcome:
        masks = [layer_masks(ticket.layout, ticket.mask) for ticket in tickets]
        sizes = {name: mask.numel() for name, mask in masks[0].items()}
        if any({name: mask.numel() for name, mask in one.items()} != sizes for one in masks):
            raise TombolaError("the tickets have different prunable weights: their masks cannot be compared")
        # for each layer [tickets, tickets]: counts of shared weights, on the diagonal of kept ones
        shared = {name: _shared(torch.stack([one[name] for one in masks])) for name in sizes}
        kept = [[int(shared[name][i, i]) for name in sizes] for i in range(len(tickets))]
        rows = []
        for i, j in combinations(range(len(tickets)), 2):
            common = sum(float(shared[name][i, j]) for name in sizes)
            row = {"a": i, "b": j, "quantity": "jaccard", "density": (tickets[i].density + tickets[j].density) / 2}
            row["value"] = jaccard(common, sum(kept[i]), sum(kept[j]))
            rows.append(row | {"chance": overlap_by_chance(list(sizes.values()), kept[i], kept[j])})
        return Outcome(None, {"rows": rows})


def overlap(rows: list[Row]) -> Iterator[AnalysisRow]:
    """Yield a stage for each curve and level over the seeds, and one for each seed and level over the curves."""
    pruned = [row for row in own_masks(rows) if row.labels["level"] > 0]
    for between, alike in (("seeds", ("curve", "level")), ("curves", ("seed", "level"))):
        for group in grouped(pruned, *alike):
            masks = once(group, mask_of)
            if len(masks) > 1:
                yield analysis_row("overlap", between, Overlap(parents=tuple(map(mask_of, masks))), masks)


def _shared(masks_TN: torch.Tensor) -> torch.Tensor:
    wide = masks_TN.double()  # counts are exact
    return wide @ wide.T
