"""Compact files of tickets."""

import json
from pathlib import Path
from typing import get_args

import torch

from tombola import files
from tombola.errors import TombolaError
from tombola.posterior.batch_norm import fingerprint
from tombola.pruning.compact import StoredAs, compacted, expanded
from tombola.pruning.ticket import Ticket, ticket_in


def compact(ticket: Ticket, path: str | Path, *, store_as: StoredAs = "exact") -> Ticket:
    """Write what predictions need of a trained ticket; return the ticket that `tombola.load` reads from the file.

    Mask, mean and standard deviation of the survivors, buffers and batch-norm statistics are kept; the state in which
    survivors start is not: it is the trained one of the ticket in the file.

    store_as: random parameters as they are (`exact`), in half precision (`fp16`), or as one of 256 levels between the
        extremes of their tensor (`int8`), mean and logarithm of the standard deviation each. Batch-norm statistics stay
        those of the exact weights.

    Raises TombolaError for an untrained ticket, one that is not finite, another `store_as`, a posterior of a family that
    cannot be rounded, and a file that cannot be written.
    """
    if store_as not in get_args(StoredAs):
        raise TombolaError(f"store_as is {store_as!r}; it must be {', '.join(get_args(StoredAs)[:-1])} or int8")
    if not bool(ticket.posterior.mean.isfinite().all()):
        raise TombolaError("the ticket's mean is not finite; train the ticket anew before it is exported")
    tensors, description = compacted(ticket.parts(), store_as)
    description = json.loads(json.dumps(description))  # as it will be read
    found = ticket_in(*expanded(tensors, description))
    if found.statistics is not None:  # which name the posterior that they are used with
        tensors["statistics.posterior"] = torch.tensor(fingerprint(found.posterior))
        found = ticket_in(*expanded(tensors, description))
    files.write(Path(path), tensors, description)
    return found
