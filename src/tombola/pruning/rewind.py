"""What the rewind setting says: init, epoch:K, step:K, or learning_rate."""

import re

from tombola.errors import TombolaError


def parse_rewind(rewind: str) -> str:
    """Where in the schedule survivors restart, as `step_of` takes it: "epoch:K", "step:K", or "" for its beginning.

    Raises TombolaError for any other text.
    """
    if rewind in ("init", "learning_rate"):
        return ""
    if not re.fullmatch(r"(epoch|step):[0-9]+", rewind):
        raise TombolaError(f"rewind is {rewind!r}; it must be init, learning_rate, epoch:K or step:K")
    return rewind


def step_of(where: str, steps_per_epoch: int) -> int | None:
    """The step that "epoch:K" or "step:K" names; None for ""."""
    if not where:
        return None
    unit, _, count = where.partition(":")
    return int(count) * (steps_per_epoch if unit == "epoch" else 1)
