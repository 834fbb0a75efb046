"""Is what is faster as good, at equal epochs? python -m benchmarks.quality QUESTION --path FILES [--seeds N].

samples: one weight sample a step against ten. precision: bf16 against fp32. noise: a sixteenth of the noise drawn anew for
a step against all of it. objective: log E_q[p], which is no faster but what the paper's code has, against E_q[log p]. Runs
the study `checks/QUESTION` and compares accuracy and NLL of the last epoch, curve by curve, level by level, paired over
seeds. Equivalent: two one-sided t tests at 5%, so the 90% t interval of the mean difference lies within the margin (0.5
points of accuracy, 0.02 nats). Different: it lies wholly beyond the margin. Otherwise inconclusive. The interval describes
seeds, not the sampling of test images. It resumes where it was stopped. Exit code 1 when anything is different.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from scipy import stats

from benchmarks.quietly import record_of, records_of
from tombola.study.spec import read

QUESTIONS = {
    "samples": ("train.samples=1", "train.samples=10"),
    "precision": ("train.precision=bf16", "train.precision=fp32"),
    "noise": ("train.noise_refresh=0.0625", "train.noise_refresh=1"),
    "objective": ("train.objective=log_expected", "train.objective=expected_log"),
}
"""Study -> the variant in question, and what it is compared with."""

MARGINS = {"accuracy": 0.005, "nll": 0.02}


@dataclass(frozen=True)
class Verdict:
    """Of paired differences: their mean, its 90% t interval, and what that says about the margin."""

    n: int
    mean: float
    low: float
    high: float
    verdict: str


def equivalence(differences: Sequence[float], margin: float) -> Verdict:
    """Two one-sided paired t tests at 5% each (Schuirmann 1987), as the 90% interval; inconclusive below two pairs."""
    found = pd.Series(differences, dtype=float)
    n, mean = len(found), float(found.mean())
    half = float(stats.t.ppf(0.95, n - 1) * found.std() / math.sqrt(n)) if n > 1 else math.inf
    low, high = mean - half, mean + half
    if -margin < low and high < margin:
        verdict = "equivalent"
    else:
        verdict = "different" if low > margin or high < -margin else "inconclusive"
    return Verdict(n, mean, low, high, verdict)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", choices=QUESTIONS, help="what is compared")
    parser.add_argument("--path", required=True, help="CIFAR-10: files on this machine, or its name on the hub")
    parser.add_argument("--seeds", type=int, default=5, help="seeds (5)")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change a setting of the study")
    parser.add_argument("--store", type=Path, default=Path("runs/quality"), help="finished stages (runs/quality)")
    parser.add_argument("--out", type=Path, help="write a JSON record here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for seed in range(args.seeds):
        changes = [f"data.args.path={args.path}", f"seeds=[{seed}]", *args.set]
        found.append(records_of(read(f"checks/{args.question}", changes), args.store))
        rows = compared(pd.concat(found), *QUESTIONS[args.question])
        if args.out:  # after each seed: a long run may be stopped
            _write(args.out, rows)
    for row in rows:
        unit = "points" if row["metric"] == "accuracy" else "nats"
        factor = 100 if row["metric"] == "accuracy" else 1
        numbers = "  ".join(f"{row[name]} {factor * row[f'{name}_mean']:.3f}" for name in ("first", "second"))
        gap = f"{factor * row['mean']:+.3f} [{factor * row['low']:+.3f}, {factor * row['high']:+.3f}] {unit}"
        print(
            f"{row['model']}, {row['curve']}, {row['density']:.1%} left, {row['metric']}: {numbers}  difference {gap}, "
            f"n {row['n']}: {row['verdict']} within {factor * row['margin']:g}"
        )
    return int(any(row["verdict"] == "different" for row in rows))


def compared(records: pd.DataFrame, first: str, second: str) -> list[dict]:
    """A row for each net, curve, level and metric: the means of both variants, and the verdict on first minus second."""
    rows = []
    for (model, curve, level), found in records.groupby(["model", "curve", "level"], sort=False):
        for metric, margin in MARGINS.items():
            wide = found.pivot(index="seed", columns="variant", values=metric).dropna()
            one, other = wide[first], wide[second]
            own = {"model": model, "curve": curve, "level": int(level), "density": float(found["density"].mean())}
            sides = {"first": first, "second": second, "first_mean": float(one.mean()), "second_mean": float(other.mean())}
            pairs = {"seeds": [int(seed) for seed in wide.index], "differences": (one - other).tolist()}
            judged = asdict(equivalence((one - other).tolist(), margin))
            rows.append(own | {"metric": metric, "margin": margin} | sides | judged | pairs)
    return rows


def _write(out: Path, rows: list[dict]) -> None:
    record = record_of("quality", rows)
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
