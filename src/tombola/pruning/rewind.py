"""Reading of the rewind setting: init, epoch:K, step:K, or learning_rate."""

import re

from tombola.errors import TombolaError


def parse_rewind(rewind: str) -> str:
    """Return where in the schedule survivors restart, for `step_of`: "epoch:K", "step:K", or "" for its beginning.

    Raises TombolaError for any other text.
    """
    if rewind in ("init", "learning_rate"):
        return ""
    if not re.fullmatch(r"(epoch|step):[0-9]+", rewind):
        raise TombolaError(f"rewind is {rewind!r}; it must be init, learning_rate, epoch:K or step:K")
    return rewind


def step_of(where: str, steps_per_epoch: int) -> int | None:
    """Return the step that "epoch:K" or "step:K" names; None for ""."""
    if not where:
        return None
    unit, _, count = where.partition(":")
    return int(count) * (steps_per_epoch if unit == "epoch" else 1)
