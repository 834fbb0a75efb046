"""The chain of iterative pruning: train, prune, rewind, level by level."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tombola.settings import PruneSettings

from .rewind import parse_rewind

N = TypeVar("N")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
N_contra = TypeVar("N_contra", contravariant=True)


class TrainStep(Protocol[N_contra, T_co]):
    """Train a ticket of that level from `start` of the schedule to `stop` ("epoch:K", "step:K", or "" for its ends)."""

    def __call__(self, ticket: N_contra, level: int, start: str, stop: str) -> T_co: ...


@dataclass(frozen=True)
class Level(Generic[N, T]):
    """One level of a chain: a ticket, its training, and the unmasked state at which the survivors of every level restart."""

    level: int
    ticket: N
    trained: T
    dense: N | T
    start: str
    """Place in the schedule where the survivors restart, as `parse_rewind` returns it."""


def walk_chain(
    dense: N, settings: PruneSettings, train: TrainStep[N, T], prune: Callable[[T, N | T, int], N]
) -> Iterator[Level[N, T]]:
    """Walk the levels of one chain, from the dense start on; a level is made when it is asked for.

    The nodes are tickets that are trained at once (`find_tickets`), or stages that describe a training (a study). prune:
    makes the next ticket from a training, the restart of the survivors, and the pruned level. Raises TombolaError for an
    invalid `rewind`.
    """
    at = parse_rewind(settings.rewind)
    restart: N | T = train(dense, 0, "", at) if at else dense
    ticket = dense
    for level in range(settings.levels + 1):
        trained = train(ticket, level, at if level else "", "")
        yield Level(level, ticket, trained, restart, at)
        if level < settings.levels:
            ticket = prune(trained, trained if settings.rewind == "learning_rate" else restart, level)
