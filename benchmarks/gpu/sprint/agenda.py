"""Plans of a sprint: the studies of the paper, what tells most a minute first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tombola.engine.local import dataset
from tombola.study.plan import Plan, plan_study
from tombola.study.recipes import merged
from tombola.study.spec import read, unfold

STUDIES = ("scores", "transplant", "randomise", "rewind")
"""The order for each seed and net."""

Patch = Mapping[str, Any]


@dataclass(frozen=True)
class Agenda:
    """The rows of the paper's studies at one size, seed by seed."""

    size: str
    path: str
    recipes: Mapping[str, Patch]
    """Net -> settings on top of its recipe's."""
    device: str = "cuda"

    def plan(self, net: str, seed: int, studies: Sequence[str] = STUDIES) -> Plan:
        """Return the plan of a net and a seed, its rows in the agenda's order."""
        raws = [self.settings(read(f"paper/{study}", []) | {"views": []}, net, [seed]) for study in studies]
        return Plan("sprint", [row for raw in raws for row in plan_study(unfold(raw), dataset).rows])

    def settings(self, raw: dict[str, Any], net: str, seeds: list[int]) -> dict[str, Any]:
        """Return a raw study at the agenda's size for one net, on its data and with its recipe."""
        own: dict[str, Any] = {"size": self.size, "nets": [net], "seeds": seeds}
        if self.path:
            own["data"] = {"args": {"path": self.path}}
        if self.device == "cpu":  # to see that it runs
            own["train"] = {"cuda_graphs": False, "compile": False}
        return merged(merged(raw, own), self.recipes.get(net, {}))
