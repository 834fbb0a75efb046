"""Many small networks at once, against one after another."""

import importlib.util

from benchmarks.gpu.nets import Job
from benchmarks.gpu.sitting import Sitting


def together(job: Job, sitting: Sitting) -> bool:
    """Prints seconds a step of R networks at once over R single steps. There is no target."""
    if importlib.util.find_spec("tombola.together") is None:
        sitting.say("together: skipped, there is no tombola.together")
        return False
    raise NotImplementedError
