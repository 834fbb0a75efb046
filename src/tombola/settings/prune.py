"""Settings of iterative pruning, and what follows from them: the number of levels, and the share left at each."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from tombola.errors import TombolaError

from .fields import COLUMN, UNLABELLED, Checked, setting

_LEVELS = 20
_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True)
class PruneSettings(Checked):
    """One chain of iterative pruning."""

    score: str = setting(
        "snr", "What ranks weights, higher survives: a name (see docs) or package.module:function.", UNLABELLED, COLUMN
    )
    sigma: Literal["trained", "start", "shuffled"] = setting(
        "trained",
        "The std that the score sees: the trained one; as it was at the start of that training; or the trained one shuffled "
        "within each layer. The last two are controls of whether what was learned of sigma counts.",
        COLUMN,
    )
    fraction: float = setting(
        _FRACTION,
        "Fraction of the remaining prunable weights, or of what remains of the `budget`, that each level prunes; with a "
        "`target` the most that a level prunes.",
        above=0,
        below=1,
    )
    levels: int = setting(
        None,
        "How often is pruned; level 0 is the dense network. By default 20; or as many as the `target` or `pattern` needs.",
        UNLABELLED,
        least=0,
    )
    scope: Literal["global", "layerwise", "erk"] = setting(
        "global",
        "Whether weights compete across layers or within each; with erk each layer keeps its Erdős-Rényi-kernel share: a "
        "count in proportion to the sum of its dimensions.",
    )
    rewind: str = setting(
        "init",
        "Where survivors restart: init, epoch:K, step:K, or learning_rate (values kept, schedule restarted).",
        UNLABELLED,
        COLUMN,
    )
    classifier: bool = setting(False, "Whether the final classifier's weights are pruned too.")
    include: list[str] = setting([], "Name patterns of parameters pruned beside the weights of linear and conv layers.")
    exclude: list[str] = setting([], "Name patterns of parameters that are never pruned.")
    budget: Literal["weights", "flops", "milliseconds"] = setting(
        "weights",
        "What each level cuts by `fraction`: the number of weights; the multiply-adds of one example (flops), counted by a "
        "forward pass; or milliseconds, the sum of `costs` over the weights.",
    )
    cost_exponent: float = setting(
        0.25,
        "With a budget of flops or milliseconds, scores are divided by a weight's cost to this power; 0 ranks by the score "
        "alone.",
        least=0,
        most=1,
    )
    costs: dict[str, float] = setting(
        {}, "With budget milliseconds: the time that one weight costs, by the names of all prunable parameters."
    )
    target: float | None = setting(
        None,
        "Share of the prunable weights, or of their `budget`, that the last level keeps; the number of levels follows.",
        above=0,
        below=1,
    )
    pattern: str = setting(
        "",
        'Groups as "2:4": the last level keeps the 2 best of each 4 consecutive inputs (second dimension of a weight) of '
        "each output; each level prunes one more of a group. Layers whose inputs 4 does not divide stay dense.",
    )
    structure: Literal["none", "channels", "heads", "units"] = setting(
        "none",
        "Whole units live or die: neurons and channels of convolutions (channels), heads of attention, or both (units); a "
        "level keeps as many weights as whole units allow to come near, and a unit of each layer. "
        "[Whole units](sparse-ways.md#whole-units) has examples.",
    )

    def __post_init__(self) -> None:
        given: int | None = self.levels
        if given is None:  # before the check of types
            object.__setattr__(self, "levels", _LEVELS)
        super().__post_init__()
        self._check_budget()
        derived = self._derived_levels()
        if derived is None:
            return
        if given not in (None, 0, derived):
            what = f"target {self.target}" if self.target is not None else f"pattern {self.pattern!r}"
            raise TombolaError(f"levels is {given}, but {what} decides that there are {derived}; leave levels out")
        if given is None:
            object.__setattr__(self, "levels", derived)

    @property
    def group(self) -> tuple[int, int] | None:
        """Return (kept, group size) of the pattern; None without one."""
        if not self.pattern:
            return None
        kept, size = map(int, self.pattern.split(":"))
        return kept, size

    def share_left(self, level: int) -> float:
        """Return the share of the budget that a level keeps, but for rounding."""
        if self.group:
            return 1 - level / self.group[1]
        if self.target is not None:
            return self.target ** (level / self.levels) if level else 1.0
        return (1 - self.fraction) ** level

    def fraction_at(self, level: int, left: float) -> float:
        """Return the fraction that is pruned of a trained ticket of `level` with the share `left` of the budget."""
        if self.target is None:
            return self.fraction
        if left <= self.target:
            return 0.0
        return 1 - (self.target / left) ** (1 / (self.levels - level))

    def _derived_levels(self) -> int | None:
        if self.group:
            return self.group[1] - self.group[0]
        if self.target is None:
            return None
        return math.ceil(round(math.log(self.target) / math.log(1 - self.fraction), 9))  # rounded: 0.8 ** 3 is 3 levels

    def _check_budget(self) -> None:
        """Raise TombolaError for settings that exclude one another."""
        if self.pattern and not self._is_pattern():
            raise TombolaError(f"pattern is {self.pattern!r}; it must be KEPT:GROUP, fewer kept than in a group, as '2:4'")
        if self.pattern and (self.target is not None or self.budget != "weights" or self.fraction != _FRACTION):
            raise TombolaError(f"pattern {self.pattern!r} decides what is pruned; leave target, budget and fraction out")
        if self.structure != "none" and (self.pattern or self.scope == "erk"):
            what = f"pattern {self.pattern!r}" if self.pattern else "scope 'erk'"
            raise TombolaError(f"{what} is of single weights, structure {self.structure!r} of whole units; leave one out")
        if self.budget == "milliseconds" and not self.costs:
            raise TombolaError(
                "budget is 'milliseconds', but there are no costs; give the milliseconds of one weight of each prunable "
                "parameter, as costs: {conv1.weight: 0.00002}, or use budget flops"
            )
        if self.scope == "erk" and (self.pattern or self.budget != "weights"):
            raise TombolaError("scope 'erk' decides how many weights each layer keeps; leave pattern and budget out")
        for name, cost in self.costs.items():
            if isinstance(cost, bool) or not isinstance(cost, int | float) or not 0 < cost < math.inf:
                raise TombolaError(f"costs has {cost!r} for {name!r}; give milliseconds a weight, a number above 0")

    def _is_pattern(self) -> bool:
        found = re.fullmatch(r"([1-9]\d?):([1-9]\d?)", self.pattern)
        return found is not None and int(found[1]) < int(found[2])
