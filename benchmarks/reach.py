"""The accuracy that the recipes reach: python -m benchmarks.reach --size cpu --path FILES [--nets resnet20 ...] [--seeds N].

Trains every net of a size as its recipe says, dense and with 5% of the prunable weights left (pruned at once), Bayesian and
deterministic, and prints accuracy on the test split, and processor seconds of a training with its evaluation, which other
programs disturb less than the clock. Nothing is chosen here. It resumes where it was stopped, but a net whose trainings were
partly done already has no seconds.
"""

import math
import sys
import time

import torch

from benchmarks.quietly import done_of, pruned_at_once, recipe_parser, records_of, write
from benchmarks.record import Row

_MEANS = ("accuracy", "drift_mean", "drift_rank")


def main() -> int:
    args = recipe_parser("reach", __doc__).parse_args()
    torch.set_num_threads(1 if args.size == "cpu" else torch.get_num_threads())
    rows: list[Row] = []
    for net in args.nets:
        study = pruned_at_once("reach", args, net)
        done, before = len(done_of(study, args.store)), time.process_time()
        records = records_of(study, args.store)
        seconds = (time.process_time() - before) / len(records) if not done else None
        for (model, method, _), found in records.groupby(["model", "method", "level"], sort=False):
            means = {name: found[name].mean() for name in _MEANS} | {"accuracy_sd": found["accuracy"].std()}
            row = {"model": model, "method": method, "density": float(found["density"].mean())}
            row |= {"data": found["data"].iloc[0], "seconds": seconds, "n": len(found)}
            rows.append(row | {name: None if math.isnan(value) else float(value) for name, value in means.items()})
            print(
                f"{model:14s} {method:4s} {row['density']:6.1%} left: {means['accuracy']:.1%}   "
                f"drift {means['drift_mean']:+.2f}, rank {means['drift_rank']:.2f}   "
                f"{seconds or math.nan:.1f} s a training",
                flush=True,
            )
        write(args.out, "reach", rows, size=args.size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
