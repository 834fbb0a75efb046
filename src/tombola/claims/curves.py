"""Which rows of the records make a curve, and its values as a grid over seeds and levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class Missing(Exception):  # noqa: N818 - nothing went wrong: there is no data yet
    """What a claim needs and the records lack, in words that can follow "needs"."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Rows by their columns; None is whatever there is."""

    arm: str
    score: str
    chain: str = "bayesian"
    """Of the networks whose pruning found the masks: bayesian or deterministic."""
    learning_rate_rewinding: bool = False
    """Whether survivors keep their values, rather than restart at the initialisation."""
    lr: float | None = None
    warmup: bool | None = None

    @property
    def control(self) -> str:
        """As "re-init"; empty for what is no control."""
        return "" if self.arm in ("ticket", "deterministic", "transplant") else _CONTROLS.get(self.arm, self.arm)

    @property
    def tickets(self) -> str:
        """As "snr tickets with warm-up": the curve itself, or what it is a control of."""
        found = f"{'deterministic' if self.chain == 'deterministic' else self.score} tickets"
        found = "transplants" if self.arm == "transplant" else found
        extra = ["learning-rate rewinding"] if self.learning_rate_rewinding else []
        extra += [] if self.lr is None else [f"learning rate {self.lr:g}"]
        extra += ["warm-up"] if self.warmup else []
        return f"{found} with {' and '.join(extra)}" if extra else found

    @property
    def words(self) -> str:
        """As "re-init of snr tickets"."""
        return f"{self.control} of {self.tickets}" if self.control else self.tickets

    def of(self, records: pd.DataFrame) -> pd.DataFrame:
        """The rows of this curve."""
        here = (records["arm"] == self.arm) & (records["score"] == self.score) & (records["chain"] == self.chain)
        here &= (records["rewind"] == "learning_rate") == self.learning_rate_rewinding
        if self.lr is not None:
            here &= records["lr"] == self.lr
        if self.warmup is not None:
            here &= (records["warmup_epochs"] > 0) == self.warmup
        return records[here]


_CONTROLS = {
    "reinit": "re-init",
    "shuffle_layerwise": "layer-wise shuffles",
    "shuffle_global": "global shuffles",
    "shuffle_even": "even shuffles",
}


def tickets(score: str) -> Curve:
    """Tickets of Bayesian networks, pruned by that score."""
    return Curve(arm="ticket", score=score)


def control(arm: str, of: Curve) -> Curve:
    """The control `arm` of these tickets: reinit, shuffle_layerwise, ..."""
    return replace(of, arm=arm)


def rewound(curve: Curve) -> Curve:
    """The same curve by learning-rate rewinding."""
    return replace(curve, learning_rate_rewinding=True)


SNR, MU, SQUARE, SQUARE_CODED = tickets("snr"), tickets("mu"), tickets("square"), tickets("square_coded")
DETERMINISTIC = Curve(arm="deterministic", score="magnitude", chain="deterministic")
TRANSPLANT = Curve(arm="transplant", score="magnitude", chain="deterministic")


def named(curves: Sequence[Curve]) -> str:
    """As "mu tickets, and re-init and even shuffles of snr tickets"."""
    plain = [curve.tickets for curve in curves if not curve.control]
    controls: dict[str, list[str]] = {}
    for curve in curves:
        if curve.control:
            controls.setdefault(curve.tickets, []).append(curve.control)
    return ", and ".join(([listed(plain)] if plain else []) + [f"{listed(names)} of {of}" for of, names in controls.items()])


def listed(words: list[str]) -> str:
    """As "a, b and c"."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


@dataclass(frozen=True)
class Grid:
    """A column of a curve's rows: `values` and the rows' `keys` by seed (down) and level (across), `density` by level."""

    words: str
    values: pd.DataFrame
    keys: pd.DataFrame
    density: pd.Series

    @property
    def levels(self) -> list[int]:
        """Rising."""
        return [int(level) for level in self.values.columns]

    def dense(self) -> Grid:
        """The curve's level 0, repeated at every level. Raises Missing without it."""
        import pandas as pd

        if 0 not in self.levels:
            raise Missing(f"the dense networks of {self.words}")
        values, keys = (pd.DataFrame(dict.fromkeys(self.levels, found[0])) for found in (self.values, self.keys))
        return Grid("dense", values, keys, self.density)


def grid(curve: Curve, records: pd.DataFrame, column: str) -> Grid | None:
    """The curve's grid of that column; None where no row has a value. Rows that two studies share count once."""
    if column not in records:
        return None
    rows = curve.of(records)
    rows = rows[rows[column].notna()].drop_duplicates(["seed", "level"])
    if rows.empty:
        return None
    table = rows.set_index(["seed", "level"])
    values, keys = (table[name].unstack() for name in (column, "key"))
    return Grid(curve.words, values, keys, rows.groupby("level")["density"].mean())
