"""What docs/paper.md is made of: curves of the records, contrasts beyond the claims, and sentences that follow from them."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from tombola.claims.contrasts import TIMES, Contrast, area, left, log_ratio, near
from tombola.claims.curves import (
    DETERMINISTIC,
    MU,
    SNR,
    SQUARE,
    SQUARE_CODED,
    TRANSPLANT,
    Curve,
    Grid,
    Missing,
    control,
    grid,
    rewound,
    tickets,
)
from tombola.claims.nets import family_of
from tombola.claims.verdict import above, outcome

HIGH, MEDIUM = 0.012, 0.1
SCALES = {"nll": (0.01, "nats")}
"""Of columns whose differences are no percentage points: factor on what a contrast gives, and unit."""
QUANTITIES = {
    "accuracy": "accuracy",
    "mace": "top-label MACE",
    "mace_coded": "MACE of every class",
    "ece": "ECE",
    "nll": "NLL",
}


@dataclass(frozen=True)
class Pool:
    """All records; those of a model at home have the settings that most of its rows have, and unchanged arms."""

    records: pd.DataFrame

    @cached_property
    def models(self) -> list[str]:
        """The first of each family, in the records' order."""
        return list({family_of(model): model for model in reversed(self.records["model"].unique())}.values())[::-1]

    def rows(self, model: str, changes: Mapping[str, Any] = {}, **settings: Any) -> pd.DataFrame:
        """Of arms with these changes, in the settings at home but for those given, by the last part of their path."""
        own = self.records[self.records["model"] == model]
        plain = own[own["changes"] == "{}"]
        home = json.loads(plain["settings"].mode().iloc[0])
        wanted = {path: value for path, value in home.items() if path.split(".")[-1] not in settings}
        kept = {text: self._fits(json.loads(text), wanted, settings) for text in own["settings"].unique()}
        same = {text: json.loads(text) == dict(changes) for text in own["changes"].unique()}
        return own[own["settings"].map(kept).astype(bool) & own["changes"].map(same).astype(bool)]

    @staticmethod
    def _fits(found: dict[str, Any], wanted: dict[str, Any], given: Mapping[str, Any]) -> bool:
        last = {path.split(".")[-1]: value for path, value in found.items()}
        rest = {path: value for path, value in found.items() if path.split(".")[-1] not in given}
        return rest == wanted and all(last.get(name) == value for name, value in given.items())

    def rated(self, model: str) -> pd.DataFrame:
        """The rows of the experiment that compares learning rates."""
        own = self.records[(self.records["model"] == model) & (self.records["arm"] == "ticket")]
        rates = {"train.lr", "train.warmup_epochs"}
        own = own[[set(json.loads(text)) <= rates for text in own["changes"]]]
        for _, rows in own.groupby("settings", sort=False):
            if len(rows[["lr", "warmup_epochs"]].drop_duplicates()) > 1:
                return rows
        return own.iloc[:0]


@dataclass(frozen=True)
class Pick:
    """A curve by the name that it has on the page."""

    words: str
    curve: Curve
    rows: Callable[[Pool, str], pd.DataFrame] = lambda pool, model: pool.rows(model)

    def of(self, pool: Pool, model: str) -> pd.DataFrame:
        rows = self.curve.of(self.rows(pool, model)).drop_duplicates(["seed", "level"])
        return rows.assign(curve=self.words)

    def grid(self, pool: Pool, model: str, column: str) -> Grid:
        found = grid(self.curve, self.rows(pool, model), column)
        if found is None:
            raise Missing(f"{self.words}")
        return replace(found, words=self.words)


def changed(words: str, curve: Curve, **changes: Any) -> Pick:
    """Of an arm that changes something; `train__lr` stands for train.lr."""
    paths = {name.replace("__", "."): value for name, value in changes.items()}
    return Pick(words, curve, lambda pool, model: pool.rows(model, paths))


def set_to(words: str, curve: Curve, **settings: Any) -> Pick:
    """At another setting of the study."""
    return Pick(words, curve, lambda pool, model: pool.rows(model, **settings))


def budget(words: str, curve: Curve) -> Pick:
    """The arms of equal budget, whatever densities they were asked for."""

    def rows(pool: Pool, model: str) -> pd.DataFrame:
        own = pool.records[(pool.records["model"] == model) & (pool.records["arm"] == "equal_budget")]
        return own[own["settings"].isin(pool.rows(model)["settings"].unique())]

    return Pick(words, control("equal_budget", curve), rows)


SNR_, MU_, SQUARE_ = Pick("snr tickets", SNR), Pick("mu tickets", MU), Pick("square tickets", SQUARE)
DET = Pick("deterministic tickets", DETERMINISTIC)
SNR_CODED_ = Pick("snr as coded", tickets("snr_coded"))
SQUARE_CODED_ = Pick("square as coded", SQUARE_CODED)
START = changed("snr, sigma as at its start", SNR, sigma="start")
SHUFFLED = changed("snr, sigma shuffled within layers", SNR, sigma="shuffled")
SLOW = changed("snr, log sigma at the rate of mu", SNR, train__log_std_lr_factor=1)
MOVED = Pick("transplants", TRANSPLANT)
MOVED_SHUFFLED = Pick("transplants, mask shuffled within layers", control("transplant_shuffle", TRANSPLANT))
MOVED_REDRAWN = Pick("transplants, weights drawn anew", control("transplant_reinit", TRANSPLANT))
BY_RATE = {"Bayesian": Pick("snr, learning-rate rewinding", rewound(SNR))}
BY_RATE["deterministic"] = Pick("deterministic, learning-rate rewinding", rewound(DETERMINISTIC))
EQUAL = {
    "Bayesian": budget("snr at equal budget", SNR),
    "deterministic": budget("deterministic at equal budget", DETERMINISTIC),
}
BATCH = set_to("snr tickets, statistics of the batch", SNR, batch_norm="batch")
BATCH_DET = set_to("deterministic tickets, statistics of the batch", DETERMINISTIC, batch_norm="batch")

Measure = Callable[[Grid, Grid], Contrast]
WHERE: dict[str, Measure] = {
    "area": lambda a, b: area(a, b, start=1),
    "dense": lambda a, b: near(a, b, density=1.0),
    **{f"near {left(d)}": (lambda a, b, d=d: near(a, b, density=d)) for d in (0.2, MEDIUM, 0.05, HIGH, 0.01)},
}
"""Where two curves are compared: the area over all pruned levels, or the level nearest to a density."""


@dataclass(frozen=True)
class Extra:
    """Two curves of which the paper's claims say nothing."""

    one: Pick
    other: Pick
    where: str = "area"
    column: str = "accuracy"


EXTRAS: dict[str, list[Extra]] = {
    "scores": [
        *(Extra(pick, SNR_, where) for pick in (START, SHUFFLED, SLOW, SNR_CODED_) for where in ("area", "near 1.2%")),
        Extra(SNR_CODED_, MU_),
        Extra(SQUARE_CODED_, SQUARE_),
        Extra(SNR_, DET),
        Extra(SNR_, DET, "dense"),
    ],
    "randomise": [
        Extra(ticket, Pick(f"{words} of {ticket.words}", control(arm, ticket.curve)), where)
        for ticket in (SNR_, DET)
        for arm, words in (("reinit", "re-init"), ("shuffle_layerwise", "layer-wise shuffles"))
        for where in ("near 10%", "near 1.2%")
    ],
    "transplant": [
        Extra(MOVED, other, where) for other in (MOVED_SHUFFLED, MOVED_REDRAWN) for where in ("area", "near 1.2%")
    ]
    + [Extra(MOVED_REDRAWN, MOVED_SHUFFLED)],
    "rewind": [
        Extra(BY_RATE[kind], EQUAL[kind], where)
        for kind in ("Bayesian", "deterministic")
        for where in ("near 10%", "near 1.2%")
    ],
    "calibration": [
        *(Extra(BATCH, SNR_, where, "mace") for where in ("area", "dense")),
        Extra(BATCH, SNR_),
        *(Extra(SNR_, DET, "area", column) for column in ("mace", "mace_coded", "ece", "nll")),
        *(Extra(MOVED, DET, "area", column) for column in ("mace", "mace_coded", "ece")),
        Extra(BATCH, BATCH_DET, "area", "mace_coded"),
    ],
}


def bullets(pool: Pool, extras: Sequence[Extra]) -> list[str]:
    """A bullet for each comparison, with what it says of every net; none for what no net has."""
    found = []
    for extra in extras:
        said, where = [], ""
        for model in pool.models:
            try:
                contrast = _contrast(pool, model, extra)
            except Missing:
                continue
            scale, unit = SCALES.get(extra.column, (1.0, "points"))
            said.append(f"{model} {told(replace(contrast, values=scale * contrast.values), unit)}")
            where = where or _where(contrast)
        if said:
            what = f"{extra.one.words}, against {extra.other.words}"
            found.append(f"- **{_capital(what)}** ({QUANTITIES[extra.column]}, {where}): {'; '.join(said)}.")
    return found


def _contrast(pool: Pool, model: str, extra: Extra) -> Contrast:
    one, other = (pick.grid(pool, model, extra.column) for pick in (extra.one, extra.other))
    return WHERE[extra.where](one, other)


def _where(contrast: Contrast) -> str:
    """The end of the contrast's words: where it is taken."""
    if ", area over log density, " in contrast.words:
        return "mean over log density, " + contrast.words.rsplit(", ", 1)[1]
    at = contrast.words.rsplit(" at ", 1)[1]
    return "dense" if at == "100% left" else f"at {at}"


def told(contrast: Contrast, unit: str) -> str:
    """Above, below or not to be told apart, by the 90% interval of the mean over seeds; one seed has no interval."""
    found = outcome(above(contrast))
    seeds = f"n = {found.n}"
    if found.n < 2:
        return f"differs by {found.mean:+.2f} {unit} (one seed: no interval)"
    interval = f"[{found.low:+.2f}, {found.high:+.2f}]"
    if found.low > 0 or found.high < 0:
        word = "above" if found.low > 0 else "below"
        low, high = sorted((abs(found.low), abs(found.high)))
        return f"{word} by {abs(found.mean):.2f} {unit} [{low:.2f}, {high:.2f}] ({seeds})"
    return f"not to be told apart: {found.mean:+.2f} {unit} {interval} ({seeds})"


def cost_table(pool: Pool) -> list[str]:
    """Cost ratios of finding and training, in seconds and counted operations, with 90% intervals."""
    heads = ["net", "in", "a level: Bayesian over deterministic", "one ticket: transplant over Bayesian"]
    lines = [f"| {' | '.join([*heads, 'a ticket at every level: transplant over Bayesian'])} |", "|" + " --- |" * 5]
    for model in pool.models:
        for name, column in (("seconds", "train_seconds"), ("FLOPs", "train_flops")):
            try:
                snr, det, moved = (pick.grid(pool, model, column) for pick in (SNR_, DET, MOVED))
            except Missing:
                continue
            levels = sorted(set(snr.levels) & set(det.levels) & set(moved.levels))
            every, last = [0, *levels], levels[-1]
            ratios = [
                log_ratio([(snr, every)], [(det, every)], "a level"),
                log_ratio([(det, every[:-1]), (moved, [last])], [(snr, every)], "one ticket"),
                log_ratio([(det, every[:-1]), (moved, levels)], [(snr, every)], "every ticket"),
            ]
            lines.append(f"| {model} | {name} | " + " | ".join(_times(ratio) for ratio in ratios) + " |")
    return lines


def _times(contrast: Contrast) -> str:
    assert contrast.unit == TIMES
    found = outcome(above(contrast))
    low, mean, high = (f"{math.exp(x):.2f}" for x in (found.low, found.mean, found.high))
    return mean if found.n < 2 or low == high else f"{mean} [{low}, {high}]"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
