"""Tickets that were trained apart, as one ticket, and back: a deep ensemble (Lakshminarayanan et al. 2017)."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from tombola.errors import TombolaError
from tombola.posterior.point import Point
from tombola.posterior.samples import Samples

from .ticket import Ticket


def ensemble_of(tickets: Sequence[Ticket]) -> Ticket:
    """Return one trained ticket whose posterior is the trained mean of each of `tickets`, equally likely.

    A weight is kept where any of them keeps it; in the others it is 0. Start, buffers and info are the first one's, with the
    number of `members` in info; it has no batch-norm statistics (`with_statistics` measures them).
    Raises TombolaError for fewer than two, for different parameters or roles, and for an untrained one.
    """
    if len(tickets) < 2:
        raise TombolaError(f"an ensemble needs two tickets or more, there is {len(tickets)}")
    first = tickets[0]
    for i, ticket in enumerate(tickets):
        if ticket.layout.segments != first.layout.segments:
            raise TombolaError(f"ticket {i} has other parameters or roles than ticket 0; give tickets of one model")
    mask = torch.stack([ticket.mask for ticket in tickets]).any(0)
    kept = torch.stack([ticket.posterior.mean for ticket in tickets])
    trained = replace(first.end, posterior=Samples(first.layout, mask, kept[0], kept))
    start = replace(first.rewind, posterior=Samples.of(first.rewind.posterior)).masked(mask)
    return replace(
        first, mask=mask, rewind=start, trained=trained, statistics=None, info=first.info | {"members": len(tickets)}
    )


def members_of(ticket: Ticket) -> list[Ticket]:
    """Return a deterministic ticket of each point of a trained posterior, as of methods ensemble and sghmc, under its mask.

    They have the ticket's start, buffers and info, and no batch-norm statistics. Raises TombolaError for a posterior that is
    no finite set of points.
    """
    points = ticket.posterior.points
    if points is None:
        raise TombolaError(f"a posterior of family {ticket.posterior.family} has no members; draw samples from it")
    own = replace(ticket.rewind, posterior=Point.of(ticket.rewind.posterior))
    ends = [replace(ticket.end, posterior=Point(ticket.layout, point, ticket.mask)) for point in points]
    return [replace(ticket, rewind=own, trained=end, statistics=None) for end in ends]
