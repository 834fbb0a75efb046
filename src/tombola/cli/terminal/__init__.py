"""What people see in the terminal: a run as it goes on, the status of one from elsewhere, tables."""

from .board import Board
from .follow import Follower
from .picture import Finished, Picture, Running, draw, duration, until
from .tables import graph_table, results_table
from .watchers import ConsoleWatcher, display_for

__all__ = [
    "Board",
    "ConsoleWatcher",
    "Finished",
    "Follower",
    "Picture",
    "Running",
    "display_for",
    "draw",
    "duration",
    "graph_table",
    "results_table",
    "until",
]
