"""Running a plan: whatever runs its missing stages is an engine; the local one needs no service and shares by files."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tombola.study.plan import Plan


class Engine(Protocol):
    """Whatever runs the stages that `store.missing` gives and saves their outcomes in the store.

    A stage needs its parents' tickets and a `RunContext`, nothing of the engine.
    """

    failures: dict[str, str]
    """Key of a failed stage -> sentence; empty for a stage that only depends on a failed one."""

    def run(self, plan: "Plan", after_each: Callable[[], None] = ...) -> None:
        """Run the plan's missing stages, parents first. A failed stage stops those that depend on it alone."""
        ...
