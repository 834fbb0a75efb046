"""Plans of a sprint: the studies of the paper, what tells most a minute first, and the field."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tombola.engine.local import dataset
from tombola.settings import PruneSettings
from tombola.study.plan import Plan, plan_study
from tombola.study.recipes import expand, merged
from tombola.study.spec import read, unfold

STUDIES = ("scores", "transplant", "randomise", "rewind")
"""The order for each seed and net."""
FIELD = "field"
"""The study beside the paper's, if it is asked for."""

Patch = Mapping[str, Any]


@dataclass(frozen=True)
class Agenda:
    """The rows of the studies at one size, seed by seed."""

    size: str
    path: str
    recipes: Mapping[str, Patch]
    """Net -> settings on top of its recipe's."""
    device: str = "cuda"

    def plan(self, net: str, seed: int, studies: Sequence[str] = STUDIES) -> Plan:
        """Return the plan of a net and a seed, its rows in the agenda's order."""
        raws = [self._field(net, [seed]) if study == FIELD else self._of_paper(study, net, [seed]) for study in studies]
        return Plan("sprint", [row for raw in raws for row in plan_study(unfold(raw), dataset).rows])

    def settings(self, raw: dict[str, Any], net: str, seeds: list[int]) -> dict[str, Any]:
        """Return a raw study at the agenda's size for one net, on its data and with its recipe."""
        own: dict[str, Any] = {"size": self.size, "nets": [net], "seeds": seeds}
        if self.path:
            own["data"] = {"args": {"path": self.path}}
        if self.device == "cpu":  # to see that it runs
            own["train"] = {"cuda_graphs": False, "compile": False}
        return merged(merged(raw, own), self.recipes.get(net, {}))

    def _of_paper(self, study: str, net: str, seeds: list[int]) -> dict[str, Any]:
        return self.settings(read(f"paper/{study}", []) | {"views": []}, net, seeds)

    def _field(self, net: str, seeds: list[int]) -> dict[str, Any]:
        """Return the study's arms, levels and measures, with all else as the recipe has it.

        Longer trainings keep their factor. Steps that cannot be captured are not.
        """
        study = read(FIELD, [])
        evaluate = {"measures": study["evaluate"]["measures"]}
        prune = study["prune"] | {"levels": PruneSettings(**study["prune"]).levels}  # over the recipe's
        raw = self.settings({"name": FIELD, "prune": prune, "evaluate": evaluate}, net, seeds)
        (train,) = (one["train"] for one in expand(raw))
        arms = []
        for arm in study["arms"]:
            changes = dict(arm.get("train", {})) if isinstance(arm, dict) else {}
            if "epochs" in changes:
                changes["epochs"] = changes["epochs"] * train["epochs"] // study["train"]["epochs"]
            if changes and train.get("cuda_graphs"):
                changes |= {"cuda_graphs": False, "compile": False}
            arms.append(arm | {"train": changes} if changes else arm)
        return raw | {"arms": arms}
