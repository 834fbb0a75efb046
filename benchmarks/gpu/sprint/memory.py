"""The store of a sprint: tickets in memory, of which masks alone outlive it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tombola.engine.store import Store
from tombola.errors import TombolaError
from tombola.pruning.ticket import Ticket
from tombola.study.stages import Init, Outcome, Prune, Stage

Mask = tuple[Tensor, dict[str, Any]]
"""Mask of a pruning, bool [P], and its ticket's info."""


class MemoryStore(Store):
    """Records on disk, tickets in memory. A ticket that restarts at its seed's first weights is its mask and the seed."""

    def __init__(self, root: Path, sprint: str):
        """sprint: the name that records carry, by which `collect` tells where a row is from."""
        super().__init__(root)
        self._sprint = sprint
        self._held: dict[str, Ticket] = {}
        self.masks: dict[str, Mask] = {}
        """Key of a pruning -> its mask, of this sprint and of earlier ones."""

    def has_ticket(self, key: str) -> bool:
        return key in self._held

    def ticket(self, key: str) -> Ticket:
        if key not in self._held:
            raise TombolaError(f"the ticket of {key} was not kept by an earlier sprint")
        return self._held[key]

    def has_mask(self, key: str) -> bool:
        return key in self.masks

    def mask(self, key: str) -> Mask:
        return self.masks[key]

    def save(self, stage: Stage, outcome: Outcome, run: dict[str, Any]) -> None:
        super().save(stage, replace(outcome, ticket=None), run | {"sprint": self._sprint})
        if (ticket := outcome.ticket) is None:
            return
        self._held[stage.key] = ticket
        if isinstance(stage, Prune) and isinstance(stage.parents[1], Init):
            self.masks[stage.key] = ticket.mask, {k: v for k, v in ticket.info.items() if k != "history"}

    def remove_ticket(self, key: str) -> None:
        self._held.pop(key, None)

    def discard(self, key: str) -> None:
        super().discard(key)
        self._held.pop(key, None)
