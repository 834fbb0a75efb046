"""What the recipes reach: python -m benchmarks.reach --size cpu --path FILES [--nets resnet20 ...] [--seeds N].

Trains every net of a size as its recipe says, dense and with 5% of the prunable weights left (pruned at once), Bayesian and
deterministic, and prints accuracy on the test split, and processor seconds of a training with its evaluation, which other
programs disturb less than the clock. Nothing is chosen here. It resumes where it was stopped, but a net whose trainings were
partly there already has no seconds.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.quietly import done_of, record_of, records_of
from tombola.study.recipes import cifar10

LEFT = 0.05


def main() -> int:
    sizes = cifar10()["sizes"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sizes, default="cpu", help="which recipe (cpu)")
    parser.add_argument(
        "--nets", nargs="+", choices=sizes["cpu"]["nets"], default=list(sizes["cpu"]["nets"]), help="which nets"
    )
    parser.add_argument("--path", required=True, help="CIFAR-10: files on this machine, or its name on the hub")
    parser.add_argument("--seeds", type=int, default=2, help="seeds (2)")
    parser.add_argument("--store", type=Path, default=Path("runs/recipes"), help="finished stages (runs/recipes)")
    parser.add_argument("--out", type=Path, help="write a JSON record here")
    args = parser.parse_args()
    torch.set_num_threads(1 if args.size == "cpu" else torch.get_num_threads())
    rows: list[dict[str, Any]] = []
    for net in args.nets:
        study = {
            "name": f"reach-{args.size}",
            "size": args.size,
            "nets": [net],
            "seeds": list(range(args.seeds)),
            "data": {"args": {"path": args.path}},
            "prune": {"fraction": 1 - LEFT, "levels": 1},
            "arms": ["ticket", "deterministic"],
        }
        done, before = len(done_of(study, args.store)), time.process_time()
        records = records_of(study, args.store)
        seconds = (time.process_time() - before) / len(records) if not done else None
        for (model, method, _), found in records.groupby(["model", "method", "level"], sort=False):
            own = {
                "model": model,
                "method": method,
                "density": float(found["density"].mean()),
                "data": found["data"].iloc[0],
            }
            measured = {
                "accuracy": found["accuracy"].mean(),
                "accuracy_sd": found["accuracy"].std(),
                "drift_mean": found["drift_mean"].mean(),
                "drift_rank": found["drift_rank"].mean(),
            }
            numbers = {name: None if math.isnan(value) else float(value) for name, value in measured.items()}
            rows.append(own | numbers | {"seconds": seconds, "n": len(found)})
            print(
                f"{model:14s} {method:4s} {own['density']:6.1%} left: {measured['accuracy']:.1%}   "
                f"drift {measured['drift_mean']:+.2f}, rank {measured['drift_rank']:.2f}   "
                f"{seconds or math.nan:.1f} s a training",
                flush=True,
            )
        if args.out:
            record = record_of("reach", rows, size=args.size)
            args.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
