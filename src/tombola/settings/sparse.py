"""Settings of a mask that changes within one training."""

from dataclasses import dataclass
from typing import Literal

from tombola.errors import TombolaError

from .fields import Checked, setting


@dataclass(frozen=True, kw_only=True)
class SparseSettings(Checked):
    """Way in which a mask changes within one training. [Ways to be sparse](sparse-ways.md) has examples."""

    way: Literal["gradual", "set", "rigl", "ssvi"] = setting(
        "rigl",
        "gradual: from dense to `density` by a cubic schedule. The others keep the number of weights: they drop the lowest "
        "and grow as many. set: by magnitude, at random. rigl: by magnitude, by gradient. ssvi: by folded_snr, by gradient.",
    )
    density: float = setting(0.1, "Share of the prunable weights that is kept; of gradual, at its end.", above=0, below=1)
    every: int = setting(100, "Steps between two changes of the mask.", least=1)
    fraction: float = setting(
        0.3,
        "Share of the weights that the first change moves; it falls to 0 by half a cosine (not of gradual).",
        above=0,
        below=1,
    )
    begin: float = setting(0.0, "Where changes begin, as a share of the training.", least=0, below=1)
    until: float = setting(0.75, "Where changes end, as a share of the training.", above=0, most=1)
    drop: str = setting("", "Score by which weights go; by default mu, of ssvi folded_snr.")
    scope: Literal["", "global", "layerwise", "erk"] = setting(
        "",
        "Whether weights compete across layers or within each; by default within (layerwise), of gradual and ssvi global.",
    )
    start: Literal["erk", "even"] = setting(
        "erk", "Densities of layers at the start, at random places: Erdős-Rényi-kernel, or equal (not of gradual)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.begin >= self.until:
            raise TombolaError(f"sparse.begin is {self.begin}, but changes end at sparse.until {self.until}; begin earlier")
        if self.scope == "erk" and self.way != "gradual":
            raise TombolaError(
                f"sparse.scope is 'erk', but {self.way} keeps counts; use start: erk, with scope layerwise or global"
            )

    @property
    def score(self) -> str:
        """Return the name of the score by which weights go."""
        return self.drop or ("folded_snr" if self.way == "ssvi" else "mu")

    @property
    def within(self) -> str:
        """Return the scope in which weights compete."""
        return self.scope or ("global" if self.way in ("gradual", "ssvi") else "layerwise")


def check_changing(method: str, estimator: str, cuda_graphs: bool) -> None:
    """Raise TombolaError for training settings that a changing mask cannot have."""
    if method not in ("vi", "map"):
        raise TombolaError(f"train.sparse is set, but method {method} has one mask; use vi or map, or leave it out")
    if cuda_graphs:
        raise TombolaError("train.sparse is set, but captured steps have one mask; set cuda_graphs: false")
    if method == "vi" and estimator not in ("weight_sample", "antithetic", "mean"):
        raise TombolaError(f"train.sparse is set, but estimator {estimator} has one mask; use weight_sample")
