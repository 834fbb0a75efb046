"""Tuning of the recipes on validation examples: python -m benchmarks.recipes --size cpu --path FILES [--nets resnet20 ...].

One setting after another, from the recipe's own value: the value with the best mean accuracy is kept for the rest. The
mean is over seeds, Bayesian and deterministic networks, dense and with 5% of the prunable weights left (pruned at once, by
snr and by magnitude), since the best value for dense networks can ruin sparse ones. The test split is never looked at. heat
and the rate of log_std belong to the study's question, so they are measured and not chosen. It resumes where it was
stopped.
"""

import json
import sys
from typing import Any

import pandas as pd
import torch

from benchmarks.quietly import LEFT, pruned_at_once, recipe_parser, records_of, write
from benchmarks.record import Row
from tombola.study.recipes import expand, merged

Patch = dict[str, Any]


def main() -> int:
    parser = recipe_parser("recipes", __doc__, ["resnet20", "vgg11", "vit_tiny"])
    parser.add_argument("--settings", nargs="+", default=[], help="only these settings, by their names in the table")
    args = parser.parse_args()
    torch.set_num_threads(1 if args.size == "cpu" else torch.get_num_threads())
    rows: list[Row] = []
    chosen: dict[str, Patch] = {}
    for net in args.nets:
        best = pruned_at_once("recipes", args, net) | {"evaluate": {"split": "validation"}}
        held_out = expand(best)[0]["data"]["args"].get("validation", 5000)
        best["data"]["args"]["validation"] = held_out
        for setting, patches in _candidates(best).items():
            if args.settings and setting not in args.settings:
                continue
            tried = [records_of(merged(best, patch), args.store) for patch in patches]
            scores = [float(found["accuracy"].mean()) for found in tried]
            is_choice = not setting.endswith("(measured only)")
            top = scores.index(max(scores)) if is_choice else 0
            for i, (patch, found) in enumerate(zip(patches, tried, strict=True)):
                rows.append(
                    {"net": net, "setting": setting, "value": patch, "chosen": is_choice and i == top} | _means(found)
                )
                print(_line(rows[-1]), flush=True)
            if is_choice:
                best = merged(best, patches[top])
                chosen[net] = merged(chosen.get(net, {}), patches[top])
            more = {"size": args.size, "seeds": args.seeds, "split": "validation", "chosen": chosen}
            write(args.out, "recipes", rows, **more)  # after each setting: a long run may be stopped
    print(json.dumps(chosen, indent=1))
    return 0


def _candidates(study: Patch) -> dict[str, list[Patch]]:
    """Return setting -> patches of the study, its own value first."""
    (one,) = expand(study)
    train, data = one["train"], one["data"]
    lr, batch, epochs = train["lr"], train["batch_size"], train["epochs"]
    schedules = dict.fromkeys([train["schedule"], "one_cycle", "cosine"])
    smoothings = dict.fromkeys([train.get("label_smoothing", 0.0), 0.0, 0.1])
    crops = dict.fromkeys([data["crop"], 0, 4 // data["args"].get("pool", 1)])  # 4 of the 32 pixels
    rates = dict.fromkeys([train.get("log_std_lr_factor", 5), 5, 1])
    norms = dict.fromkeys([one["evaluate"].get("batch_norm", "samples"), "samples", "batch"])
    found: dict[str, list[Patch]] = {
        "learning rate": [{"train": {"lr": value}} for value in (lr, lr / 2, lr * 2)],
        "batch": [{"train": {"batch_size": value}} for value in (batch, batch // 2)],
        "augmentation": [{"data": {"crop": value}} for value in crops],
        "schedule": [{"train": {"schedule": value}} for value in schedules],
        "label smoothing": [{"train": {"label_smoothing": value}} for value in smoothings],
        "batch norm": [{"evaluate": {"batch_norm": value}} for value in norms],
        "rate of log_std (measured only)": [{"train": {"log_std_lr_factor": value}} for value in rates],
        "heat (measured only)": [{"train": {"heat": value}} for value in (0.1, 0.01)],
    }
    if "subset" in data["args"]:  # as many images in all, seen half as often
        more = {"data": {"args": {"subset": 2 * data["args"]["subset"]}}, "train": {"epochs": max(1, epochs // 2)}}
        found["subset"] = [{"train": {"epochs": epochs}}, more]
    if study["nets"][0].startswith("vit"):
        del found["batch norm"]
    return {name: patches for name, patches in found.items() if len(patches) > 1}


def _means(found: pd.DataFrame) -> dict[str, Any]:
    by = found.groupby(["method", "level"])
    named = {
        f"{method} {'dense' if level == 0 else f'{LEFT:.0%}'}": v for (method, level), v in by["accuracy"].mean().items()
    }
    sigma = found[found["method"] == "vi"]
    drift = {name: float(sigma[f"drift_{name}"].mean()) for name in ("mean", "spread", "rank")}
    seconds = float(found["train_seconds"].mean())
    return {"accuracy": float(found["accuracy"].mean()), "by arm": named, "drift": drift, "seconds": seconds}


def _line(row: dict[str, Any]) -> str:
    arms = "  ".join(f"{name} {value:.1%}" for name, value in row["by arm"].items())
    rank = row["drift"]["rank"]
    mark = "*" if row["chosen"] else " "
    return (
        f"{mark} {row['net']:9s} {row['setting']:16s} {json.dumps(row['value']):48s} {row['accuracy']:.1%}   {arms}   "
        f"drift {row['drift']['mean']:+.2f}, rank {rank:.2f}   {row['seconds']:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
