"""The terminal's display: the progress of a run here or elsewhere, and tables."""

from .follow import Follower
from .picture import Finished, Picture, Running, draw, duration, until
from .screen import Screen
from .tables import graph_table, print_results, print_settled, results_table
from .watchers import ConsoleWatcher, shown

__all__ = [
    "ConsoleWatcher",
    "Finished",
    "Follower",
    "Picture",
    "Running",
    "Screen",
    "draw",
    "duration",
    "graph_table",
    "print_results",
    "print_settled",
    "results_table",
    "shown",
    "until",
]
