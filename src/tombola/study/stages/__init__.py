"""The stages of a study: each takes its parents' tickets and gives a ticket or a record.

A stage is its settings. Its key hashes them (only what differs from a default), the data's fingerprint, the source of user
code, its version and its parents' keys, so a finished stage is never run again, whichever study it came from.
"""

from .base import Outcome, Stage, Surroundings, ancestors
from .evaluate import Evaluate
from .init import Init
from .masks import Prune, Redraw, Shuffle, Transplant
from .train import Train

__all__ = [
    "Evaluate",
    "Init",
    "Outcome",
    "Prune",
    "Redraw",
    "Shuffle",
    "Stage",
    "Surroundings",
    "Train",
    "Transplant",
    "ancestors",
]
