"""Costs of the paper's studies, for the table of `tombola studies`: python -m benchmarks.costs [--out FILE].

Writes src/tombola/studies/costs.json anew. The size cpu is taken from results/paper-cpu/record.json, which
`python -m benchmarks.paper` has measured; without that file its old numbers stay. The sizes gpu and full are forecast from
the studies' plans on data of CIFAR-10's shapes, with nothing run and nothing downloaded: the operations of every training,
counted on torch's meta device, over an assumed rate; but each launched operation takes at least an assumed time, which
bounds small networks.
"""

import argparse
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tombola import models
from tombola.data import Dataset
from tombola.engine.work import epoch_steps, work_of
from tombola.inference import is_deterministic
from tombola.settings import DataSettings
from tombola.study.plan import plan_study, training_of
from tombola.study.spec import read, shipped, unfold
from tombola.study.stages import Train

ROOT = Path(__file__).parents[1]
COSTS = ROOT / "src" / "tombola" / "studies" / "costs.json"
MEASURED = ROOT / "results" / "paper-cpu" / "record.json"
SIZES = ("gpu", "full")
ASSUMED = {"device": "one H200", "flops_per_second": 60e12, "seconds_per_launch": 10e-6}
"""A small part of the device's rate in bf16, and the time that torch takes on a CPU to launch a kernel."""
_EXAMPLES = 8  # of the step that is counted


def _images(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(1, dtype=torch.uint8).expand(n, 3, 32, 32), torch.arange(n) % 10


CIFAR10 = Dataset("cifar10", _images(50_000), _images(5_000), _images(10_000), digest="stand-in")
"""A stand-in with CIFAR-10's shapes, without its images and their memory; some measures need its validation images."""


def stand_in(settings: DataSettings) -> Dataset:
    """Return the stand-in, for any settings."""
    return CIFAR10


@dataclass(frozen=True)
class Passes:
    """The work of one forward pass, and of one with its backward pass."""

    flops: tuple[float, float]
    """Floating-point operations of an example."""
    launches: tuple[int, int]
    """Operations that torch launches, for a batch of any size."""


class _Launches(TorchDispatchMode):
    """A counter of operations other than views, which launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


@cache
def passes_of(words: str) -> Passes:
    """Return the passes of a net (its `identity`), counted without arithmetic."""
    name, args, input_shape, outputs = json.loads(words)
    module = models.build(name, args, input_shape, outputs, ("skeleton",)).to("meta").train()
    inputs = torch.empty(_EXAMPLES, *input_shape, device="meta")
    targets = torch.zeros(_EXAMPLES, dtype=torch.long, device="meta")
    flops, launches = [], []
    for backward in (False, True):
        with FlopCounterMode(display=False) as counter, _Launches() as counted:
            loss = F.cross_entropy(module(inputs), targets)
            if backward:
                loss.backward()
        flops.append(counter.get_total_flops() / _EXAMPLES)
        launches.append(counted.count)
    return Passes((flops[0], flops[1]), (launches[0], launches[1]))


def cost_of(stage: Train) -> tuple[float, float]:
    """Return (operations, seconds) of a training.

    A Bayesian one takes a forward and a backward pass for each weight sample; log E_q[p] a forward pass more for each.
    """
    settings, passes = stage.settings, passes_of(stage.net.identity)
    samples = 1 if is_deterministic(settings.method) else settings.samples
    twice = samples > 1 and settings.objective == "log_expected"
    steps = work_of(stage, stand_in)
    examples = steps / epoch_steps(stage, stand_in) * len(CIFAR10.train[1])
    flops = examples * samples * (passes.flops[1] + twice * passes.flops[0])
    launches = steps * samples * (passes.launches[1] + twice * passes.launches[0])
    return flops, max(flops / ASSUMED["flops_per_second"], launches * ASSUMED["seconds_per_launch"])


def forecast(size: str) -> dict[str, dict[str, float]]:
    """Return study -> trainings, operations and seconds alone, and seconds that it adds to the studies before it."""
    seen: set[str] = set()
    found = {}
    for name in paper_studies():
        raw = read(name, [f"size={size}"])
        seeds = len(raw["seeds"])  # which have no training in common
        stages = plan_study(unfold(raw | {"seeds": [0]}), stand_in).stages
        costs = {stage.key: cost_of(trained) for stage in stages if (trained := training_of(stage)) is not None}
        found[name] = {
            "trainings": seeds * sum(isinstance(stage, Train) for stage in stages),
            "flops": seeds * sum(flops for flops, _ in costs.values()),
            "alone_seconds": seeds * sum(seconds for _, seconds in costs.values()),
            "added_seconds": seeds * sum(seconds for key, (_, seconds) in costs.items() if key not in seen),
        }
        seen |= costs.keys()
        print(f"{size} {name}: {found[name]['trainings']} trainings", flush=True)
    return found


def measured(record: dict[str, Any]) -> dict[str, Any]:
    """Return the same from a record of benchmarks.paper, with hardware and date."""
    names = {"trainings": "trainings", "alone_seconds": "alone_seconds", "added_seconds": "wall_seconds"}
    studies = {row["study"]: {ours: row[theirs] for ours, theirs in names.items()} for row in record["studies"]}
    hardware = f"{record['hardware']['cores']} cores of {record['hardware']['cpu']}"
    return {"hardware": hardware, "date": record["date"], "processes": record.get("jobs", 1), "studies": studies}


def paper_studies() -> list[str]:
    return [name for name in shipped() if name.startswith("paper/")]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=MEASURED, help="the record of the size cpu")
    parser.add_argument("--out", type=Path, default=COSTS, help="where to write (the packaged file)")
    args = parser.parse_args(argv)
    before = json.loads(args.out.read_text()) if args.out.is_file() else {}
    cpu = measured(json.loads(args.measured.read_text())) if args.measured.is_file() else before.get("cpu", {"studies": {}})
    sizes = {size: {"studies": forecast(size)} for size in SIZES}
    args.out.write_text(json.dumps({"assumed": ASSUMED, "cpu": cpu, **sizes}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
