"""Operations and milliseconds that a ticket needs for an accuracy: pruning by score, against score over cost.

    python -m benchmarks.budget --path FILES [--nets vgg11 resnet20] [--seeds 5] [--store FOLDER] [--figure FILE]

Tickets of the small relatives of the nets (recipe `cpu`), ranked by snr / cost^exponent; 0 is blind to cost.
Each level keeps 60% of the multiply-adds of the one before. The question is asked at the knee: what share of the dense
operations is needed for 1 point less than the blind rule's best level, by curves of means over seeds, interpolated between
levels over the logarithm of the operations. The exponent is chosen on validation images; ratios, blind over chosen, are of
test images, with the 95% interval of all bootstrap samples of the seeds. Milliseconds: the least of 200 calls of the
predictors that `tombola.compile` makes twice for tickets of the first seed, one thread, batch 16, sparse kernels (dense ones
at level 0).
Finished stages and timings are kept, so a run that was stopped goes on where it was. Exit code 1 where a ratio is below 1.5.
"""

import itertools
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

import tombola
from benchmarks.budget_figure import draw
from benchmarks.quietly import Silent, parser
from benchmarks.record import Row, finish, judged
from tombola.engine.local import LocalEngine, dataset
from tombola.engine.records import row_of
from tombola.engine.store import Store
from tombola.study.graph import Row as Measured
from tombola.study.plan import Plan, plan_study
from tombola.study.spec import unfold

EXPONENTS = [0.0, 0.125, 0.25, 0.5]
NETS = ["vgg11", "resnet20"]
SLACK = 0.01
"""Accuracy that may be lost at the knee."""
BATCH = 16
TARGET = 1.5
COSTS = {"operations": "flops_left", "milliseconds": "milliseconds"}
KEYS = ["exponent", "seed", "level"]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("budget", __doc__, seeds=5, store="runs/budget")
    arguments.add_argument("--nets", nargs="+", choices=NETS, default=NETS, help="which nets (both)")
    arguments.add_argument("--figure", type=Path, help="draw accuracy over both costs here, as a PNG")
    args = arguments.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[Row] = []
    for net in args.nets:
        curves = measured(study(net, list(range(args.seeds)), args.path), args.store)
        found = compared(curves)
        inverse = {what: 1 / found["ratio"][what] for what in COSTS}
        print(f"{net}: exponent {found['chosen']:g}, {found['ratio']}, 95% {found['interval']}")
        plain = curves.astype(object).where(curves.notna(), None)  # JSON has no NaN
        row = {"net": net, **found, "curves": plain.to_dict("list")}
        rows.append(judged(row, inverse, dict.fromkeys(COSTS, 1 / TARGET)))
    if args.figure:
        draw(rows, args.figure)
    return finish("budget", rows, args.out, argv)


def study(net: str, seeds: list[int], path: str) -> dict[str, Any]:
    """Return the raw study of a net: a curve for each exponent."""
    return {
        "name": f"budget-{net}",
        "size": "cpu",
        "nets": [net],
        "seeds": seeds,
        "data": {"args": {"path": path, "subset_test": 4000}},
        "prune": {"score": "snr", "budget": "flops", "fraction": 0.4, "levels": 7},
        "arms": [{"arm": "ticket", "cost_exponent": EXPONENTS}],
    }


def measured(raw: dict[str, Any], at: Path) -> pd.DataFrame:
    """Run what the store `at` lacks; return what each ticket needs, and its accuracies: `KEYS`, costs, validation, test.

    Milliseconds are of the blind and the chosen rule alone, NaN for others.
    """
    plan, store = plan_study(unfold(raw), dataset), Store(at)
    held_out = [on_validation(row) for row in plan.rows]
    both = Plan(plan.name, [*plan.rows, *held_out])
    LocalEngine(store, torch.device("cpu"), Silent(), checkpoint_seconds=20.0).run(both)
    exponents = [value for value in EXPONENTS for _ in range(raw["prune"]["levels"] + 1)] * len(raw["seeds"])
    rows = []
    for exponent, row, other in zip(exponents, plan.rows, held_out, strict=True):
        found = row_of(row, store, store.record)
        own = {name: found[name] for name in ("seed", "level", "density", "flops_left")}
        rows.append(
            {
                "exponent": exponent,
                **own,
                "validation": row_of(other, store, store.record)["accuracy"],
                "test": found["accuracy"],
            }
        )
    table = pd.DataFrame(rows)
    best = EXPONENTS[chosen(table)]
    first = range(len(exponents) // len(raw["seeds"]))
    due = [i for i in first if exponents[i] in (0.0, best)]
    took = dict(zip(due, timed([plan.rows[i] for i in due], store, at / "milliseconds.json"), strict=True))
    return table.assign(milliseconds=[took.get(i % len(first), math.nan) for i in range(len(table))])


def on_validation(row: Measured) -> Measured:
    """Return the row of the same ticket, measured on training examples that were held out."""
    return replace(row, stage=replace(row.stage, settings=replace(row.stage.settings, split="validation")))


def timed(rows: Sequence[Measured], store: Store, kept: Path) -> list[float]:
    """Return the milliseconds of each ticket; `kept` holds those that were timed before, by their stages' keys."""
    found = json.loads(kept.read_text()) if kept.is_file() else {}
    for row in rows:
        key, stage = row.trained.key, row.stage
        if key in found:
            continue
        data = dataset(stage.source.settings)
        example = data.prepare(data.test[0][:BATCH])
        kernels: Literal["sparse", "dense"] = "sparse" if row.labels["level"] else "dense"
        ticket, net, seconds = store.ticket(key), stage.net.build("skeleton"), []
        for _ in range(2):  # what is chosen by measuring can be chosen badly on a busy machine
            with TemporaryDirectory() as folder, patch.dict("os.environ", {"TOMBOLA_CACHE": folder}):
                predictor = tombola.compile(ticket, net, example, kernels=kernels)
            for _ in range(100):
                began = time.perf_counter()
                predictor(example)
                seconds.append(time.perf_counter() - began)
        found[key] = 1e3 * min(seconds)
        kept.write_text(json.dumps(found))
    return [found[row.trained.key] for row in rows]


def chosen(curves: pd.DataFrame) -> int:
    """Return the place of the exponent that needs the fewest operations on validation images."""
    needs = _needs(curves, "validation", "flops_left", range(curves["seed"].nunique()))
    return needs.index(min(needs))


def compared(curves: pd.DataFrame) -> Row:
    """Return the exponent chosen on validation images, and what the blind rule needs over what it needs, on test images."""
    every, best = range(curves["seed"].nunique()), chosen(curves)
    draws = list(itertools.combinations_with_replacement(every, len(every)))
    weights = [math.factorial(len(every)) / math.prod(map(math.factorial, Counter(draw).values())) for draw in draws]
    row: Row = {"chosen": EXPONENTS[best], "needs": {}, "ratio": {}, "interval": {}}
    for what, cost in COSTS.items():
        needs = _needs(curves, "test", cost, every)
        row["needs"][what] = [None if math.isnan(value) else value for value in needs]
        row["ratio"][what] = needs[0] / needs[best]
        ratios = [at[0] / at[best] for at in (_needs(curves, "test", cost, draw) for draw in draws)]
        row["interval"][what] = [_quantile(ratios, weights, part) for part in (0.025, 0.975)]
    return row


def _needs(curves: pd.DataFrame, split: str, cost: str, seeds: Sequence[int]) -> list[float]:
    """Return what each exponent needs by the mean curves of these seeds, by their places and as often as they are named."""
    by_place = curves.sort_values(KEYS)
    shape = [curves[name].nunique() for name in KEYS]
    accuracy, costs = (by_place[name].to_numpy().reshape(shape)[:, list(seeds)] for name in (split, cost))
    accuracy, costs = accuracy.mean(1), np.exp(np.log(costs).mean(1))
    wanted = accuracy[0].max() - SLACK
    return [needed(own, accuracy[i], wanted) for i, own in enumerate(costs)]


def _quantile(values: Sequence[float], weights: Sequence[float], part: float) -> float:
    """Return the value below which that part of the weights lies."""
    order = np.argsort(values)
    below = np.cumsum(np.asarray(weights)[order]) / sum(weights)
    return float(np.asarray(values)[order][np.searchsorted(below, part)])


def needed(costs: np.ndarray, accuracies: np.ndarray, wanted: float) -> float:
    """Return the least cost at which a curve, from dense to sparse, has the accuracy `wanted`; the densest where it has not.

    Between the sparsest level that has it and the next one the accuracy is linear in the logarithm of the cost.
    """
    reached = np.nonzero(accuracies >= wanted)[0]
    if not len(reached):
        return float(costs[0])
    last = reached[-1]
    if last == len(costs) - 1:
        return float(costs[-1])
    part = (accuracies[last] - wanted) / (accuracies[last] - accuracies[last + 1])
    return float(costs[last] * (costs[last + 1] / costs[last]) ** part)


if __name__ == "__main__":
    sys.exit(main())
