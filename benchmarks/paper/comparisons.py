"""Comparisons beyond the paper's claims, judged as claims are: "the first is above the second", over seeds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from benchmarks.paper import picks as p
from benchmarks.paper.picks import Pick, Pool
from tombola.claims.contrasts import Contrast, area, log_ratio, near
from tombola.claims.curves import Grid, Missing, control
from tombola.claims.judge import Row, adjusted
from tombola.claims.paper.claims import HIGH, MEDIUM
from tombola.claims.verdict import CONTRADICTED, COST, INCONCLUSIVE, SUPPORTED, Claim, Joint, above, outcome

QUANTITIES = {"accuracy": "accuracy", "mace": "MACE", "mace_coded": "MACE of every class", "ece": "ECE", "nll": "NLL"}
COSTS = {"train_seconds": "seconds, of trainings that shared the machine with others", "train_flops": "FLOPs"}
WORDS = {SUPPORTED: "above", CONTRADICTED: "below", INCONCLUSIVE: "not to be told apart"}
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

    def contrast(self, pool: Pool, model: str) -> Contrast:
        """Return one minus other. Raises Missing without data, or if both are the same rows."""
        one, other = (pick.grid(pool, model, self.column) for pick in (self.one, self.other))
        if one.keys == other.keys:
            raise Missing(f"{one.words} that are not {other.words}")
        found = WHERE[self.where](one, other)
        if self.column != "nll":
            return found
        return replace(found, values={seed: value / 100 for seed, value in found.values.items()}, unit="nats")


EXTRAS: dict[str, list[Extra]] = {
    "scores": [
        *(Extra(pick, p.SNR, where) for pick in (p.START, p.SHUFFLED, p.SLOW, p.SNR_CODED) for where in ("area", "high")),
        Extra(p.SNR_CODED, p.MU),
        Extra(p.SQUARE_CODED, p.SQUARE),
        Extra(p.SNR, p.DET),
        Extra(p.SNR, p.DET, "dense"),
        Extra(p.SNR, p.DET, "high"),
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
        Extra(p.MOVED, p.SNR, "high"),
    ],
    "rewind": [Extra(by_rate, equal, where) for _, by_rate, equal in p.REWOUND.values() for where in ("medium", "high")],
    "calibration": [
        *(Extra(pick, p.SNR, where, "mace") for pick in (p.RUNNING, p.BATCH) for where in ("area", "dense")),
        *(Extra(pick, p.SNR) for pick in (p.RUNNING, p.BATCH)),
        *(Extra(p.SNR, p.DET, "area", column) for column in ("mace", "mace_coded", "ece", "nll")),
        *(Extra(p.MOVED, p.DET, "area", column) for column in ("mace", "mace_coded", "ece")),
        Extra(p.BATCH, p.BATCH_DET, "area", "mace_coded"),
    ],
}


def compared(pool: Pool) -> dict[str, list[Row]]:
    """Return the comparisons with data by section; p values are adjusted by Holm over all of them, costs apart."""
    found = [*_rows(pool), *(("cost", row) for row in _every_ticket(pool))]
    rows = adjusted([row for _, row in found])
    return {section: [row for (name, _), row in zip(found, rows, strict=True) if name == section] for section, _ in found}


def _rows(pool: Pool) -> Iterator[tuple[str, Row]]:
    for section, extras in EXTRAS.items():
        for extra in extras:
            for model in pool.models:
                try:
                    contrast = extra.contrast(pool, model)
                except Missing:
                    continue
                yield section, _row(QUANTITIES[extra.column], extra.column, model, contrast)


def _every_ticket(pool: Pool) -> Iterator[Row]:
    """Yield the cost of a ticket at every level by transplantation, over a chain of Bayesian ones, which has them all."""
    for column, name in COSTS.items():
        for model in pool.models:
            try:
                snr, det, moved = (pick.grid(pool, model, column) for pick in (p.SNR, p.DET, p.MOVED))
            except Missing:
                continue
            levels = sorted(set(snr.levels) & set(det.levels) & set(moved.levels))
            chain, words = [0, *levels], "a ticket at every level, transplants over Bayesian ones"
            counted = column == "train_flops"
            ratio = log_ratio([(det, chain[:-1]), (moved, levels)], [(snr, chain)], words, counted=counted)
            yield _row(name, COST, model, ratio)


def _row(quantity: str, metric: str, model: str, contrast: Contrast) -> Row:
    claim = Claim("", quantity, lambda net: [], study="", metric=metric)
    if contrast.pull:  # which of the two is above is also about a collapse, in either direction
        contrast = replace(contrast, at_chance=(), pull=0)
    return Row(claim=claim, case="", net=model, joint=Joint([outcome(above(contrast))]))


def told(row: Row) -> str:
    """Return "above", "below" or "not to be told apart", after Holm's correction and alone, or why there is no verdict."""
    assert row.joint is not None
    alone = "" if row.corrected == row.verdict else f" (alone: {WORDS[row.verdict]})"
    return row.joint.deciding.reason or WORDS[row.corrected] + alone
