"""The records of one size, and curves of them by the names that they have on the page."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from tombola.claims import curves as c
from tombola.claims.curves import Curve, Grid, Missing, Rows, control, rewound
from tombola.claims.nets import family_of

CLASSES = 10
"""Number of classes of CIFAR-10, for records that were written before they had the column."""


@dataclass(frozen=True)
class Pool:
    """All records of one size, the numbers of analyses, and what was run on which machine.

    A model's home is the settings that most of its rows of unchanged arms have.
    """

    records: pd.DataFrame
    analyses: pd.DataFrame = field(default_factory=pd.DataFrame)
    run: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "Pool | None":
        """Read a folder with records.parquet (or records.json), views.parquet and record.json; None without records."""
        tables = [_table(folder / name) for name in ("records", "views")]
        if tables[0] is None:
            return None
        records = tables[0] if "classes" in tables[0] else tables[0].assign(classes=CLASSES)
        run = folder / "record.json"
        return cls(
            records,
            pd.DataFrame() if tables[1] is None else tables[1],
            json.loads(run.read_text()) if run.is_file() else {},
        )

    @cached_property
    def models(self) -> list[str]:
        """The first model of each family, in the records' order."""
        return list({family_of(model): model for model in reversed(self.records["model"].unique())}.values())[::-1]

    def rows(self, model: str, changes: Mapping[str, Any] = {}, settings: Mapping[str, Any] = {}) -> pd.DataFrame:
        """Return the rows of arms with these changes, at home but for these settings: values by path, None: left out."""
        own = self.records[self.records["model"] == model]
        own = own[own["changes"] == json.dumps(changes, sort_keys=True)]
        there = json.loads(self.home(model)) | settings
        there = {path: value for path, value in there.items() if value is not None}
        return own[own["settings"] == json.dumps(there, sort_keys=True)]

    def home(self, model: str) -> str:
        """Return the settings that most rows of the model's unchanged arms have."""
        plain = (self.records["model"] == model) & (self.records["changes"] == "{}")
        return str(self.records.loc[plain, "settings"].mode().iloc[0])


def _table(path: Path) -> pd.DataFrame | None:
    if path.with_suffix(".parquet").is_file():
        return pd.read_parquet(path.with_suffix(".parquet"))
    text = path.with_suffix(".json")
    return pd.DataFrame(json.loads(text.read_text())) if text.is_file() else None


@dataclass(frozen=True)
class Pick:
    """A curve by the name that it has on the page; `changes` and `settings` as `Pool.rows` takes them."""

    words: str
    curve: Curve
    changes: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def of(self, pool: Pool, model: str) -> pd.DataFrame:
        """Return its rows, each seed and level once."""
        rows = self.curve.of(pool.rows(model, self.changes, self.settings))
        return rows.drop_duplicates(["seed", "level"]).assign(curve=self.words)

    def grid(self, pool: Pool, model: str, column: str) -> Grid:
        """Return its values. Raises Missing without any."""
        found = Rows(self.of(pool, model)).grid(self.curve, column)
        if found is None:
            raise Missing(self.words)
        return replace(found, words=self.words)


BY_BATCH = {"evaluate.batch_norm": "batch"}
BY_RUNNING = {"evaluate.batch_norm": None}
"""Running statistics were the default when keys were frozen, so settings leave them out; later homes name `samples`."""

SNR, MU, SQUARE = Pick("snr tickets", c.SNR), Pick("mu tickets", c.MU), Pick("square tickets", c.SQUARE)
DET = Pick("deterministic tickets", c.DETERMINISTIC)
SNR_CODED = Pick("snr as coded", c.tickets("snr_coded"))
SQUARE_CODED = Pick("square as coded", c.SQUARE_CODED)
START = Pick("snr, sigma as at its start", c.SNR, {"sigma": "start"})
SHUFFLED = Pick("snr, sigma shuffled within layers", c.SNR, {"sigma": "shuffled"})
SLOW = Pick("snr, log sigma at the rate of mu", c.SNR, {"train.log_std_lr_factor": 1})
MOVED = Pick("transplants", c.TRANSPLANT)
MOVED_SHUFFLED = Pick("transplants, mask shuffled within layers", control("transplant_shuffle", c.TRANSPLANT))
MOVED_REDRAWN = Pick("transplants, weights drawn anew", control("transplant_reinit", c.TRANSPLANT))
RUNNING = Pick("snr tickets, running statistics", c.SNR, settings=BY_RUNNING)
BATCH = Pick("snr tickets, statistics of the batch", c.SNR, settings=BY_BATCH)
BATCH_DET = Pick("deterministic tickets, statistics of the batch", c.DETERMINISTIC, settings=BY_BATCH)
REWOUND = {
    "Bayesian": (
        SNR,
        Pick("snr, learning-rate rewinding", rewound(c.SNR)),
        Pick("snr at equal budget", control("equal_budget", c.SNR)),
    ),
    "deterministic": (
        DET,
        Pick("deterministic, learning-rate rewinding", rewound(c.DETERMINISTIC)),
        Pick("deterministic at equal budget", control("equal_budget", c.DETERMINISTIC)),
    ),
}
"""Tickets by weight rewinding, by learning-rate rewinding, and by the former in as many epochs."""

CURVES = {
    "ticket (snr)": SNR,
    "deterministic (magnitude)": DET,
    "ticket (mu)": MU,
    "ticket (snr), sigma as at the start": START,
}
"""Name in the table of analyses -> curve."""
