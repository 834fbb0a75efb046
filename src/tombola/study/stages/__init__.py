"""Stages of a study: each takes its parents' tickets and gives a ticket or a record.

A stage is its settings. Its key hashes them (only those that differ from their defaults), the data's fingerprint, the source
of user code, its version and its parents' keys. So a finished stage is never run again, in any study.
"""

from .base import Outcome, RunContext, Stage
from .before import PruneBefore
from .evaluate import Evaluate, Measurement
from .init import Init
from .masks import Prune, Redraw, Shuffle, Transplant
from .train import Train

__all__ = [
    "Evaluate",
    "Init",
    "Measurement",
    "Outcome",
    "Prune",
    "PruneBefore",
    "Redraw",
    "RunContext",
    "Shuffle",
    "Stage",
    "Train",
    "Transplant",
]
