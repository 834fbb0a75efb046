"""Protocols of what runs a plan's missing stages: an engine in this process, or a crew of others that share the store."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tombola.study.plan import Plan


TIME_UP = 3
"""Exit code of a process whose time was up before all stages were done."""


class Engine(Protocol):
    """Runner of the stages that `store.missing` gives; it saves their outcomes in the store.

    A stage needs its parents' tickets and a `RunContext`, nothing of the engine.
    """

    failures: dict[str, str]
    """Key of a failed stage -> sentence; empty for a stage that only depends on a failed one."""

    def run(self, plan: "Plan", after_each: Callable[[], None] = ...) -> None:
        """Run the plan's missing stages, parents first. A failed stage stops only the stages that depend on it."""
        ...


class Crew(Protocol):
    """Context in which other processes run a study's missing stages, each by a `LocalEngine`; leaving it ends them.

    Progress, failures and outcomes are read from the store: processes of this machine (`engine.workers`), tasks of a Ray
    cluster (`engine.on_ray`) and SLURM jobs (`engine.on_slurm`) look alike from outside.
    """

    time_up: bool
    """True as soon as one has stopped because its time was up."""

    def __enter__(self) -> "Crew": ...

    def __exit__(self, *_: object) -> None: ...

    def at_work(self) -> bool:
        """Return whether any still works. Report dead ones, whose stages others resume."""
        ...
