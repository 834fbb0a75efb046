"""Curves: rows of the records by their columns, and their values as a grid over seeds and levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tombola.metrics.column import listed

if TYPE_CHECKING:
    import pandas as pd


class Missing(Exception):  # noqa: N818 - nothing went wrong: there is no data yet
    """Data that a claim needs and the records lack, in words that can follow "needs"."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Rows of the records by their columns; None allows any value."""

    arm: str
    score: str
    chain: str = "bayesian"
    """The kind of network whose pruning found the masks: bayesian or deterministic."""
    learning_rate_rewinding: bool = False
    """True: survivors keep their values; False: they restart at the initialisation."""
    lr: float | None = None
    warmup: bool | None = None

    @property
    def control(self) -> str:
        """The name of a control, such as "re-init"; empty for other arms."""
        return "" if self.arm in ("ticket", "deterministic", "transplant") else _CONTROLS.get(self.arm, self.arm)

    @property
    def tickets(self) -> str:
        """The tickets, such as "snr tickets with warm-up"; of a control, the tickets that it is a control of."""
        found = f"{'deterministic' if self.chain == 'deterministic' else self.score} tickets"
        found = "transplants" if self.arm == "transplant" else found
        extra = ["learning-rate rewinding"] if self.learning_rate_rewinding else []
        extra += [] if self.lr is None else [f"learning rate {self.lr:g}"]
        extra += ["warm-up"] if self.warmup else []
        return f"{found} with {' and '.join(extra)}" if extra else found

    @property
    def words(self) -> str:
        """The name of the curve, such as "re-init of snr tickets"."""
        return f"{self.control} of {self.tickets}" if self.control else self.tickets

    def of(self, records: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of this curve."""
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
    """Return the curve of Bayesian tickets pruned by that score."""
    return Curve(arm="ticket", score=score)


def control(arm: str, of: Curve) -> Curve:
    """Return the control `arm` of these tickets: reinit, shuffle_layerwise, ..."""
    return replace(of, arm=arm)


def rewound(curve: Curve) -> Curve:
    """Return the same curve by learning-rate rewinding."""
    return replace(curve, learning_rate_rewinding=True)


SNR, MU, SQUARE, SQUARE_CODED = tickets("snr"), tickets("mu"), tickets("square"), tickets("square_coded")
DETERMINISTIC = Curve(arm="deterministic", score="magnitude", chain="deterministic")
TRANSPLANT = Curve(arm="transplant", score="magnitude", chain="deterministic")


def named(curves: Sequence[Curve]) -> str:
    """Return names such as "mu tickets, and re-init and even shuffles of snr tickets"."""
    plain = [curve.tickets for curve in curves if not curve.control]
    controls: dict[str, list[str]] = {}
    for curve in curves:
        if curve.control:
            controls.setdefault(curve.tickets, []).append(curve.control)
    return ", and ".join(([listed(plain)] if plain else []) + [f"{listed(names)} of {of}" for of, names in controls.items()])


@dataclass(frozen=True)
class Grid:
    """A column of a curve's rows: `values` and the rows' `keys` by seed (down) and level (across), `density` by level."""

    words: str
    values: pd.DataFrame
    keys: pd.DataFrame
    density: pd.Series

    @property
    def levels(self) -> list[int]:
        """The levels, rising."""
        return [int(level) for level in self.values.columns]

    def dense(self) -> Grid:
        """Return the curve's level 0, repeated at every level. Raises Missing without it."""
        import pandas as pd

        if 0 not in self.levels:
            raise Missing(f"the dense networks of {self.words}")
        values, keys = (pd.DataFrame(dict.fromkeys(self.levels, found[0])) for found in (self.values, self.keys))
        return Grid("dense", values, keys, self.density)


def grid(curve: Curve, records: pd.DataFrame, column: str) -> Grid | None:
    """Return the curve's grid of that column; None without a value. Rows that two studies share count once."""
    if column not in records:
        return None
    rows = curve.of(records)
    rows = rows[rows[column].notna()].drop_duplicates(["seed", "level"])
    if rows.empty:
        return None
    table = rows.set_index(["seed", "level"])
    values, keys = (table[name].unstack() for name in (column, "key"))
    return Grid(curve.words, values, keys, rows.groupby("level")["density"].mean())
