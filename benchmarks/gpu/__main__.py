"""Measurements on one GPU: python -m benchmarks.gpu PIECE [--nets resnet20 ...] [--path FILES] [--out results/gpu].

Pieces: steps, profile, beside, data, levels. Each net's record is OUT/PIECE-NET.json; `steps` comes first, since `data` and
`levels` use the fastest configuration that it has found. Two commands have options of their own: `sprint` runs the paper's
studies on a borrowed GPU, `collect` puts sprints together.
Exit code 0: done; 1: a target is missed (judged on a GPU, never of toys); 2: bad input.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import beside, epochs, profiling, steps
from benchmarks.gpu.job import MINUTES, Job
from benchmarks.gpu.sprint.command import COMMANDS
from benchmarks.record import Row, finish
from tombola.errors import TombolaError

PIECES: dict[str, Callable[[Job, str, dict[str, Any], argparse.Namespace], list[Row]]] = {
    "profile": lambda job, net, fastest, args: [profiling.floors(job, net)],
    "steps": lambda job, net, fastest, args: steps.steps(job, net, args.arms),
    "beside": lambda job, net, fastest, args: beside.beside(job, net),
    "data": lambda job, net, fastest, args: [epochs.data(job, net, fastest)],
    "levels": lambda job, net, fastest, args: epochs.levels(job, net, fastest, args.whole),
}
"""Name -> (job, net, fastest configuration of each arm, arguments) -> rows of the record."""


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] in COMMANDS:
        return COMMANDS[given[0]](given[1:])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("piece", choices=PIECES)
    parser.add_argument("--nets", nargs="+", choices=MINUTES, default=list(MINUTES), help="which networks (all)")
    parser.add_argument("--path", default="", help="CIFAR-10: files on this machine, or its name on the hub (noise)")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder of records (results/gpu)")
    parser.add_argument("--arms", nargs="+", choices=steps.ARMS, default=list(steps.ARMS), help="of steps: which (all)")
    parser.add_argument("--whole", action="store_true", help="of levels: all 160 epochs instead of an extrapolation")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny networks and data: to see that it runs")
    args = parser.parse_args(argv)
    try:
        return _measure(args, argv)
    except TombolaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _measure(args: argparse.Namespace, argv: Sequence[str] | None) -> int:
    if args.device == "cuda":
        if not torch.cuda.is_available():
            raise TombolaError("torch sees no GPU; to see that the pieces run, use --device cpu --toy")
        torch.backends.cudnn.benchmark = True  # for every configuration alike
    job, code = Job(torch.device(args.device), args.toy, args.path), 0
    args.out.mkdir(parents=True, exist_ok=True)
    for net in args.nets:
        known = args.out / f"steps-{net}.json"
        fastest = steps.fastest_of(json.loads(known.read_text())["rows"]) if known.is_file() else {}
        rows = PIECES[args.piece](job, net, fastest, args)
        common = {"net": net, "data": job.data.name, "toy": job.toy, "threads": torch.get_num_threads(), "verdicts": []}
        found = [common | row for row in rows]
        code = max(code, finish("gpu", found, args.out / f"{args.piece}-{net}.json", argv))
    return code


if __name__ == "__main__":
    sys.exit(main())
