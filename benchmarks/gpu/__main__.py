"""Measurements on one GPU, in pieces of a few minutes that resume.

    python -m benchmarks.gpu prepare --path DATA --out cifar10.safetensors    once, where the whole package is
    python -m benchmarks.gpu PIECE --data cifar10.safetensors --out results/gpu
    python -m benchmarks.gpu collect --out results/gpu          after the piece paper, where the whole package is

Pieces: profile, steps, data, levels, recipe, study, paper. Beyond tombola's core they need torch and safetensors
alone. Exit code 0: done; 1: done, and a target is missed (judged on a GPU, never of toys) or a stage has failed; 2: bad
input; 3: the time is up, run the same command again.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.gpu import epochs, profiling, steps, tickets
from benchmarks.gpu.nets import NETS, TOY_RECIPES, Job, noise, stored, stored_recipes
from benchmarks.gpu.sitting import MACHINE, Row, Sitting
from benchmarks.gpu.studies import STUDIES, SUFFIX, digest, stored_studies
from tombola.errors import TombolaError
from tombola.training.checkpoint import TimeUp

Measured = dict[str, Row]

PIECES: dict[str, Callable[[Job, Sitting, Measured], bool]] = {
    "profile": lambda job, sitting, _: profiling.floors(job, sitting),
    "steps": lambda job, sitting, _: steps.steps(job, sitting),
    "data": epochs.data,
    "levels": epochs.levels,
    "recipe": tickets.recipe,
    "study": tickets.study,
    "paper": lambda job, sitting, _: _paper(job, sitting),
}
"""Name -> (job, sitting, rows of the piece `steps`) -> whether a target is missed, or a stage has failed."""

_REAL = ("recipe", "study")  # accuracies of noise mean nothing
_PAPER = "paper"
_SEEDS = {_PAPER: 5}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("piece", choices=["prepare", "collect", *PIECES])
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder of records; of prepare the data file")
    parser.add_argument("--data", type=Path, help="what prepare wrote; without it noise, where accuracy is not measured")
    parser.add_argument("--path", help="of prepare: files in Hugging Face layout")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this sitting (9)")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="which networks (all)")
    parser.add_argument("--seeds", type=int, help="of recipe and study (3), of paper (5)")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES), help="of paper: which (all)")
    parser.add_argument("--whole", action="store_true", help="of levels: all 160 epochs instead of an extrapolation")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny networks and data: to see that it runs")
    args = parser.parse_args(arguments)
    try:
        if args.piece == "prepare":
            return _prepare(args)
        if args.piece == "collect":
            from benchmarks.gpu.prepare import collect  # tables: needs the whole package

            collect(args.out)
            return 0
        return _measure(args)
    except TombolaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TimeUp:
        print("the time is up; run the same command again to go on")
        return 3


def _prepare(args: argparse.Namespace) -> int:
    from benchmarks.gpu.prepare import prepare, prepare_toy  # reads images and YAML: needs the whole package

    if args.toy:
        prepare_toy(args.out)
        return 0
    if args.path is None:
        raise TombolaError("prepare needs --path, files in Hugging Face layout")
    prepare(args.path, args.out)
    return 0


def _measure(args: argparse.Namespace) -> int:
    if args.device == "cuda":
        if not torch.cuda.is_available():
            raise TombolaError("torch sees no GPU; to see that the pieces run, use --device cpu --toy")
        torch.backends.cudnn.benchmark = True  # for every configuration alike
    if args.data is None and args.piece in _REAL and not args.toy:
        raise TombolaError(f"{args.piece} measures accuracy; give --data, a file that prepare wrote")
    data = stored(args.data) if args.data else noise(args.toy)
    found = stored_recipes(args.data.with_suffix(".json")) if args.data else {}
    device = torch.device(args.device)
    seeds = args.seeds or _SEEDS.get(args.piece, 3)
    job = Job(device, args.toy, data, TOY_RECIPES if args.toy else found, tuple(args.nets), seeds, args.whole)
    setup, same = {"toy": args.toy, "data": data.name}, MACHINE
    if args.piece == _PAPER:
        if args.data is None:
            raise TombolaError("paper runs studies; give --data, a file that prepare wrote, with its studies beside it")
        job = replace(job, studies=stored_studies(args.data.with_suffix(SUFFIX)), chosen=tuple(args.studies))
        setup |= {"fingerprint": data.fingerprint, "studies": digest(job.studies)}
        same = ()  # accuracies, not times: another machine goes on
    sitting = Sitting(args.piece, args.out, setup, args.minutes, device, same=("setup", *same))
    missed = PIECES[args.piece](job, sitting, _rows(args.out / "steps.json"))
    sitting.write()
    return int(missed and (job.judged or args.piece == _PAPER))


def _paper(job: Job, sitting: Sitting) -> bool:
    from benchmarks.gpu.paper import paper  # whose engine needs filelock, which the others do without

    return paper(job, sitting)


def _rows(path: Path) -> Measured:
    """The rows of a record; none where it is not there."""
    return json.loads(path.read_text())["rows"] if path.is_file() else {}


if __name__ == "__main__":
    sys.exit(main())
