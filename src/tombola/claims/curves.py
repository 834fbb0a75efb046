"""Curves: rows of the records by their columns, and their values as a grid over seeds and levels."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tombola.metrics.column import listed

if TYPE_CHECKING:
    import pandas as pd


ACCURACIES = ("accuracy", "best_accuracy")
"""Columns in which a net at chance is a low one; in others, such as MACE, chance may look good."""


class Missing(Exception):  # noqa: N818 - nothing went wrong: there is no data yet
    """Data that a claim needs and the records lack, in words that can follow "needs"."""


class Mixed(Missing):
    """Rows of one curve, seed and level that differ, so that none is the curve's value: a sentence."""


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
    way: str | None = None
    """The way in which masks change within a training; empty for masks that do not."""
    longer: bool | None = None
    """True: the arm has epochs of its own; False: its study's."""

    @property
    def control(self) -> str:
        """The name of a control, such as "re-init"; empty for other arms."""
        return (
            "" if self.arm in ("ticket", "deterministic", "transplant", "in_training") else _CONTROLS.get(self.arm, self.arm)
        )

    @property
    def tickets(self) -> str:
        """The tickets, such as "snr tickets with warm-up"; of a control, the tickets that it is a control of."""
        found = f"{'deterministic' if self.chain == 'deterministic' else self.score} tickets"
        found = "transplants" if self.arm == "transplant" else found
        found = f"{self.way} networks" if self.way else found
        extra = ["learning-rate rewinding"] if self.learning_rate_rewinding else []
        extra += [] if self.lr is None else [f"learning rate {self.lr:g}"]
        extra += ["warm-up"] if self.warmup else []
        extra += ["epochs of their own"] if self.longer else []
        return f"{found} with {' and '.join(extra)}" if extra else found

    @property
    def words(self) -> str:
        """The name of the curve, such as "re-init of snr tickets"."""
        return f"{self.control} of {self.tickets}" if self.control else self.tickets

    def of(self, records: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of this curve."""
        return records.iloc[list(Rows(records).places(self))]


_OWN = ("ticket", "deterministic", "transplant", "in_training")
"""Arms that are no control of others."""
_CONTROLS = {
    "reinit": "re-init",
    "shuffle_layerwise": "layer-wise shuffles",
    "shuffle_global": "global shuffles",
    "shuffle_even": "even shuffles",
    "transplant_shuffle": "shuffled masks",
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
    """A column of a curve's rows: values and keys by (seed, level), mean density by level."""

    words: str
    values: Mapping[tuple[int, int], Any]
    keys: Mapping[tuple[int, int], str]
    density: Mapping[int, float]
    chance: frozenset[int] = frozenset()
    """Levels at which at least half of the seeds are no more accurate than chance."""
    column: str = "accuracy"
    """The column of the records that the values are from."""

    @property
    def levels(self) -> list[int]:
        """The levels, rising."""
        return sorted(self.density)

    def of_seed(self, seed: int, levels: Sequence[int]) -> list[Any]:
        """Return the seed's values at the levels, NaN for one that is missing."""
        return [self.values.get((seed, level), math.nan) for level in levels]

    def collapsed(self, levels: Sequence[int]) -> bool:
        """Return True for an accuracy that pruning has brought to chance at all the levels: the dense one is not there.

        A control has no dense network of its own, and counts as collapsed.
        """
        return self.column in ACCURACIES and self.chance.issuperset(levels) and 0 not in self.chance

    def seeds(self) -> list[int]:
        """Return the seeds, rising."""
        return sorted({seed for seed, _ in self.values})

    def dense(self) -> Grid:
        """Return the curve's level 0, repeated at every level. Raises Missing without it."""
        if 0 not in self.density:
            raise Missing(f"the dense networks of {self.words}")
        places = [(seed, level) for seed in self.seeds() if (seed, 0) in self.values for level in self.density]
        values, keys = ({(seed, level): of[seed, 0] for seed, level in places} for of in (self.values, self.keys))
        chance = frozenset(self.density) if 0 in self.chance else frozenset()
        return replace(self, words="dense", values=values, keys=keys, chance=chance)


class Rows:
    """Rows of records as lists of their columns, which a net's many curves are taken from: each grid is made once."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self._columns: dict[str, list[Any]] = {}
        self._grids: dict[tuple[Curve, str], Grid | None] = {}
        self._places: dict[tuple[Any, ...], list[int]] = {}
        rewound = (rewind == "learning_rate" for rewind in self.column("rewind"))
        for place, key in enumerate(zip(*map(self.column, ("arm", "score", "chain")), rewound, strict=True)):
            self._places.setdefault(key, []).append(place)

    def column(self, name: str) -> list[Any]:
        """Return the column's values; None where the records lack it."""
        if name not in self._columns:
            self._columns[name] = self.frame[name].tolist() if name in self.frame else [None] * len(self.frame)
        return self._columns[name]

    def places(self, curve: Curve) -> Iterator[int]:
        """Yield the numbers of the curve's rows."""
        for place in self._places.get((curve.arm, curve.score, curve.chain, curve.learning_rate_rewinding), ()):
            if curve.lr is not None and self.column("lr")[place] != curve.lr:
                continue
            if curve.warmup is not None and (self.column("warmup_epochs")[place] > 0) != curve.warmup:
                continue
            if curve.way is not None and self.changes[place].get("train.sparse", {}).get("way", "") != curve.way:
                continue
            if curve.longer is None or ("train.epochs" in self.changes[place]) == curve.longer:
                yield place

    def grid(self, curve: Curve, column: str) -> Grid | None:
        """Return the curve's grid of that column; None without a value. Rows that studies share count once.

        Raises Mixed where rows of one seed and level differ: neither is more the curve's value than the other.
        """
        if (curve, column) not in self._grids:
            self._grids[curve, column] = self._grid(curve, column)
        return self._grids[curve, column]

    def _grid(self, curve: Curve, column: str) -> Grid | None:
        values: dict[tuple[int, int], Any] = {}
        keys: dict[tuple[int, int], str] = {}
        densities: dict[int, list[float]] = {}
        chance: dict[int, list[bool]] = {}
        names = ("seed", "level", "key", "density", column)
        seeds, levels, row_keys, density, found = (self.column(name) for name in names)
        for place in self.places(curve):
            value, at = found[place], (int(seeds[place]), int(levels[place]))
            if value is None or (isinstance(value, float) and not math.isfinite(value)):
                continue
            if at in values:
                if values[at] != value:
                    rows = f"rows {keys[at]} and {row_keys[place]} of {curve.words}, seed {at[0]}, level {at[1]}"
                    raise Mixed(f"{rows}, differ in {column}: judge their studies apart")
                continue
            values[at], keys[at] = value, str(row_keys[place])
            densities.setdefault(at[1], []).append(density[place])
            chance.setdefault(at[1], []).append(self.at_chance[place])
        if not values:
            return None
        means = {level: math.fsum(own) / len(own) for level, own in sorted(densities.items())}
        return Grid(curve.words, values, keys, means, frozenset(at for at, own in chance.items() if _most(own)), column)

    @cached_property
    def changes(self) -> list[dict[str, Any]]:
        """The settings in which each row's arm differs from its study."""
        return [json.loads(text) for text in self.column("changes")]

    @cached_property
    def at_chance(self) -> list[bool]:
        """Flags of the rows whose accuracy chance explains: 1 / classes, and two of its deviations over the examples."""
        return [
            _is_number(accuracy)
            and _is_number(classes)
            and accuracy
            <= 1 / classes + (2 * math.sqrt((classes - 1) / classes**2 / examples) if _is_number(examples) else 0)
            for accuracy, classes, examples in zip(*map(self.column, ("accuracy", "classes", "examples")), strict=True)
        ]

    @cached_property
    def chance_known(self) -> bool:
        """True if every row with an accuracy has its number of classes."""
        both = zip(self.column("accuracy"), self.column("classes"), strict=True)
        return all(_is_number(classes) for accuracy, classes in both if _is_number(accuracy))

    @cached_property
    def untrained(self) -> bool:
        """True if at least half of the dense networks are at chance."""
        return _most([self.at_chance[place] for place, level in enumerate(self.column("level")) if level == 0])


def _most(flags: Sequence[bool]) -> bool:
    return bool(flags) and 2 * sum(flags) >= len(flags)


def _is_number(value: Any) -> bool:
    return value is not None and not math.isnan(value)
