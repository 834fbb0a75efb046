"""Equivalence of faster training at equal epochs: python -m benchmarks.quality QUESTION --path FILES [--seeds N].

samples: one weight sample a step against ten. precision: bf16 against fp32. noise: a sixteenth of the noise drawn anew for
a step against all of it. objective: log E_q[p], which is no faster but is the paper's code's, against E_q[log p].
Runs the study `checks/QUESTION` and compares accuracy and NLL of the last epoch, curve by curve, level by level, paired over
seeds. Equivalent: two one-sided t tests at 5%, so the 90% t interval of the mean difference lies within the margin (0.5
points of accuracy, 0.02 nats). Different: it lies wholly beyond the margin. Otherwise inconclusive. The interval describes
seeds, not the sampling of test images. It resumes where it was stopped. Exit code 1 when anything is different.
"""

import sys
from collections.abc import Sequence

import pandas as pd
import torch

from benchmarks.quietly import parser, records_of, write
from benchmarks.record import Row
from tombola.claims.contrasts import Contrast
from tombola.claims.verdict import CONTRADICTED, INCONCLUSIVE, NO_VERDICT, SUPPORTED, matching, outcome
from tombola.study.spec import read

QUESTIONS = {
    "samples": ("train.samples=1", "train.samples=10"),
    "precision": ("train.precision=bf16", "train.precision=fp32"),
    "noise": ("train.noise_refresh=0.0625", "train.noise_refresh=1"),
    "objective": ("train.objective=log_expected", "train.objective=expected_log"),
}
"""Study -> the variant in question, and the one to compare it with."""

MARGINS = {"accuracy": 0.005, "nll": 0.02}
UNITS = {"accuracy": (100, "points"), "nll": (1, "nats")}
WORDS = {SUPPORTED: "equivalent", CONTRADICTED: "different", INCONCLUSIVE: "inconclusive", NO_VERDICT: NO_VERDICT}
"""By the verdict on "the mean difference is within the margin of 0"."""


def equivalence(differences: Sequence[float], margin: float) -> Row:
    """Return the mean, its 90% interval and the verdict by two one-sided paired t tests at 5% each (Schuirmann 1987)."""
    found = outcome(matching(Contrast("", dict(enumerate(differences)), "", ()), margin))
    return {"n": found.n, "mean": found.mean, "low": found.low, "high": found.high, "verdict": WORDS[found.verdict]}


def main() -> int:
    arguments = parser("quality", __doc__, seeds=5, store="runs/quality")
    arguments.add_argument("question", choices=QUESTIONS, help="what is compared")
    arguments.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change a setting of the study")
    args = arguments.parse_args()
    torch.set_num_threads(1)
    found = []
    for seed in range(args.seeds):
        changes = [f"data.args.path={args.path}", f"seeds=[{seed}]", *args.set]
        found.append(records_of(read(f"checks/{args.question}", changes), args.store))
        rows = compared(pd.concat(found), *QUESTIONS[args.question])
        write(args.out, "quality", rows)  # after each seed: a long run may be stopped
    for row in rows:
        factor, unit = UNITS[row["metric"]]
        numbers = "  ".join(f"{row[name]} {factor * row[f'{name}_mean']:.3f}" for name in ("first", "second"))
        gap = f"{factor * row['mean']:+.3f} [{factor * row['low']:+.3f}, {factor * row['high']:+.3f}] {unit}"
        print(
            f"{row['model']}, {row['curve']}, {row['density']:.1%} left, {row['metric']}: {numbers}  difference {gap}, "
            f"n {row['n']}: {row['verdict']} within {factor * row['margin']:g}"
        )
    return int(any(row["verdict"] == "different" for row in rows))


def compared(records: pd.DataFrame, first: str, second: str) -> list[Row]:
    """Return a row for each net, curve, level and metric: both variants' means, and the verdict on first minus second."""
    rows = []
    for (model, curve, level), found in records.groupby(["model", "curve", "level"], sort=False):
        for metric, margin in MARGINS.items():
            wide = found.pivot(index="seed", columns="variant", values=metric).dropna()
            one, other = wide[first], wide[second]
            own = {"model": model, "curve": curve, "level": int(level), "density": float(found["density"].mean())}
            sides = {"first": first, "second": second, "first_mean": float(one.mean()), "second_mean": float(other.mean())}
            differences = (one - other).tolist()
            pairs = {"seeds": [int(seed) for seed in wide.index], "differences": differences}
            rows.append(own | {"metric": metric, "margin": margin} | sides | equivalence(differences, margin) | pairs)
    return rows


if __name__ == "__main__":
    sys.exit(main())
