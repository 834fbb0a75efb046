"""Comparisons beyond the paper's claims, as sentences that follow from intervals over seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from benchmarks.paper import picks as p
from benchmarks.paper.picks import Pick, Pool
from tombola.claims.contrasts import Contrast, area, log_ratio, near
from tombola.claims.curves import Grid, Missing, control
from tombola.claims.paper.claims import HIGH, MEDIUM
from tombola.claims.table import effect
from tombola.claims.verdict import CONTRADICTED, INCONCLUSIVE, SUPPORTED, above, outcome
from tombola.metrics.column import MINUS
from tombola.report.text import sentence

QUANTITIES = {
    "accuracy": "accuracy",
    "mace": "top-label MACE",
    "mace_coded": "MACE of every class",
    "ece": "ECE",
    "nll": "NLL",
}
COSTS = {"train_seconds": "seconds, of trainings that shared the machine with others", "train_flops": "FLOPs"}
WORDS = {SUPPORTED: "above: ", CONTRADICTED: "below: ", INCONCLUSIVE: "not to be told apart: "}
"""By the verdict on "the difference is above 0"."""

WHERE: dict[str, Callable[[Grid, Grid], Contrast]] = {
    "area": lambda a, b: area(a, b, start=1),
    "dense": lambda a, b: near(a, b, density=1.0),
    "medium": lambda a, b: near(a, b, density=MEDIUM),
    "high": lambda a, b: near(a, b, density=HIGH),
}
"""Places at which to compare two curves: the area over all pruned levels, or the level nearest to a density."""


@dataclass(frozen=True)
class Extra:
    """A comparison of two curves that no claim of the paper makes."""

    one: Pick
    other: Pick
    where: str = "area"
    column: str = "accuracy"


EXTRAS: dict[str, list[Extra]] = {
    "scores": [
        *(Extra(pick, p.SNR, where) for pick in (p.START, p.SHUFFLED, p.SLOW, p.SNR_CODED) for where in ("area", "high")),
        Extra(p.SNR_CODED, p.MU),
        Extra(p.SQUARE_CODED, p.SQUARE),
        Extra(p.SNR, p.DET),
        Extra(p.SNR, p.DET, "dense"),
    ],
    "randomise": [
        Extra(ticket, Pick(f"{words} of {ticket.words}", control(arm, ticket.curve)), where)
        for ticket in (p.SNR, p.DET)
        for arm, words in (("reinit", "re-init"), ("shuffle_layerwise", "layer-wise shuffles"))
        for where in ("medium", "high")
    ],
    "transplant": [
        *(Extra(p.MOVED, other, where) for other in (p.MOVED_SHUFFLED, p.MOVED_REDRAWN) for where in ("area", "high")),
        Extra(p.MOVED_REDRAWN, p.MOVED_SHUFFLED),
    ],
    "rewind": [Extra(by_rate, equal, where) for _, by_rate, equal in p.REWOUND.values() for where in ("medium", "high")],
    "calibration": [
        *(Extra(p.BATCH, p.SNR, where, "mace") for where in ("area", "dense")),
        Extra(p.BATCH, p.SNR),
        *(Extra(p.SNR, p.DET, "area", column) for column in ("mace", "mace_coded", "ece", "nll")),
        *(Extra(p.MOVED, p.DET, "area", column) for column in ("mace", "mace_coded", "ece")),
        Extra(p.BATCH, p.BATCH_DET, "area", "mace_coded"),
    ],
}


def bullets(pool: Pool, extras: Sequence[Extra]) -> list[str]:
    """Return a bullet for each comparison that a net has data for, with the result of each net."""
    found = []
    for extra in extras:
        said, where = [], ""
        for model in pool.models:
            try:
                contrast = WHERE[extra.where](*(pick.grid(pool, model, extra.column) for pick in (extra.one, extra.other)))
            except Missing:
                continue
            if extra.column == "nll":  # a contrast is in hundredths of the column
                contrast = replace(contrast, values=contrast.values / 100, unit="nats")
            said.append(f"{model} {told(contrast)}")
            where = where or _where(contrast)
        if said:
            what = sentence(f"{extra.one.words}, against {extra.other.words}")
            found.append(f"- **{what}** ({QUANTITIES[extra.column]}, {where}): {'; '.join(said)}.")
    return found


def _where(contrast: Contrast) -> str:
    """Return the place of a contrast, the end of its words."""
    if ", area over log density, " in contrast.words:
        return "mean over log density, " + contrast.words.rsplit(", ", 1)[1]
    at = contrast.words.rsplit(" at ", 1)[1]
    return "dense" if at == "100% left" else f"at {at}"


def told(contrast: Contrast) -> str:
    """Return "above", "below" or "not to be told apart", by the 90% interval of the mean over seeds, and the numbers."""
    found = outcome(above(contrast))
    numbers = effect(found).replace("-", MINUS)
    return f"{numbers} (one seed: no interval)" if found.n < 2 else f"{WORDS[found.verdict]}{numbers} (n = {found.n})"


def every_ticket(pool: Pool) -> list[str]:
    """Return the cost of a ticket at every level by transplantation, beside a chain of Bayesian ones, which has them all."""
    found = []
    for column, name in COSTS.items():
        said = []
        for model in pool.models:
            try:
                snr, det, moved = (pick.grid(pool, model, column) for pick in (p.SNR, p.DET, p.MOVED))
            except Missing:
                continue
            levels = sorted(set(snr.levels) & set(det.levels) & set(moved.levels))
            chain = [0, *levels]
            ratio = log_ratio([(det, chain[:-1]), (moved, levels)], [(snr, chain)], "")
            said.append(f"{model} {effect(outcome(above(ratio)))}")
        if said:
            found.append(f"- **A ticket at every level, transplants over Bayesian ones** ({name}): {'; '.join(said)}.")
    return found


def barriers_of_samples(pool: Pool, analyses: pd.DataFrame, curve: str) -> list[str]:
    """Return mean barriers at the last level, of the mean weights and of weight samples (mean and std interpolated)."""
    said = []
    for model in pool.models if len(analyses) else ():
        own = analyses[(analyses["model"] == model) & (analyses["curve_a"] == curve)]
        own = own[own["quantity"].isin(["barrier_error_mean", "barrier_error_samples"])]
        last = own[own["level_a"] == own["level_a"].max()].groupby(["between", "quantity"])["value"].mean().unstack()
        pairs = [f"{between} {100 * row.iloc[0]:.1f} and {100 * row.iloc[1]:.1f}" for between, row in last.iterrows()]
        said += [f"{model} {', '.join(pairs)}"] if pairs else []
    what = "- **Barriers of the error, of mean weights and of weight samples** (points, snr tickets, last level; `levels`: "
    kinds = "the ticket of the level before, `noise`: another training, `rewinds`: the other way of rewinding)"
    return [f"{what}{kinds}: {'; '.join(said)}."] if said else []
