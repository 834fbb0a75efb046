"""Protocol of an engine, which runs a plan's missing stages; the local engine needs no service and shares work by files."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tombola.study.plan import Plan


class Engine(Protocol):
    """Runner of the stages that `store.missing` gives; it saves their outcomes in the store.

    A stage needs its parents' tickets and a `RunContext`, nothing of the engine. With `--jobs` above 1 each worker is
    always a `LocalEngine` (`engine.workers`): another engine has its own way to run stages side by side.
    """

    failures: dict[str, str]
    """Key of a failed stage -> sentence; empty for a stage that only depends on a failed one."""

    def run(self, plan: "Plan", after_each: Callable[[], None] = ...) -> None:
        """Run the plan's missing stages, parents first. A failed stage stops only the stages that depend on it."""
        ...
