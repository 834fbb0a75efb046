"""Measurements on one GPU, in pieces of a few minutes that resume.

    python -m benchmarks.gpu prepare --path DATA --out cifar10.safetensors    once, where the whole package is
    python -m benchmarks.gpu PIECE --data cifar10.safetensors --out results/gpu

Pieces: profile, steps, data, levels, together, recipe, study. Beyond tombola's core they need torch and safetensors alone.
Exit code 0: done; 1: done, and a target is missed (judged on a GPU, never of toys); 2: bad input; 3: the time is up, run the
same command again.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.gpu import epochs, many, profiling, steps, tickets
from benchmarks.gpu.nets import NETS, TOY_RECIPES, Job, noise, stored, stored_recipes
from benchmarks.gpu.sitting import Row, Sitting, TimeUpError
from tombola.errors import TombolaError

Measured = dict[str, Row]

PIECES: dict[str, Callable[[Job, Sitting, Measured], bool]] = {
    "profile": lambda job, sitting, _: profiling.floors(job, sitting),
    "steps": lambda job, sitting, _: steps.steps(job, sitting),
    "data": epochs.data,
    "levels": epochs.levels,
    "together": lambda job, sitting, _: many.together(job, sitting),
    "recipe": tickets.recipe,
    "study": tickets.study,
}
"""Name -> (job, sitting, rows of the piece `steps`) -> whether a target is missed."""

_REAL = ("recipe", "study")  # accuracies of noise mean nothing


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("piece", choices=["prepare", *PIECES])
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder of records; of prepare the data file")
    parser.add_argument("--data", type=Path, help="what prepare wrote; without it noise, where accuracy is not measured")
    parser.add_argument("--path", help="of prepare: files in Hugging Face layout")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this sitting (9)")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="which networks (all)")
    parser.add_argument("--seeds", type=int, default=3, help="of recipe and study (3)")
    parser.add_argument("--whole", action="store_true", help="of levels: all 160 epochs instead of an extrapolation")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny networks and data: to see that it runs")
    args = parser.parse_args(arguments)
    try:
        if args.piece == "prepare":
            return _prepare(args)
        return _measure(args)
    except TombolaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TimeUpError:
        print("the time is up; run the same command again to go on")
        return 3


def _prepare(args: argparse.Namespace) -> int:
    from benchmarks.gpu.prepare import prepare  # reads images: needs the whole package

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
    job = Job(device, args.toy, data, TOY_RECIPES if args.toy else found, tuple(args.nets), args.seeds, args.whole)
    sitting = Sitting(args.piece, args.out, {"toy": args.toy, "data": data.name}, args.minutes, device)
    missed = PIECES[args.piece](job, sitting, _rows(args.out / "steps.json"))
    sitting.write()
    return int(missed and job.judged)


def _rows(path: Path) -> Measured:
    """The rows of a record; none where it is not there."""
    return json.loads(path.read_text())["rows"] if path.is_file() else {}


if __name__ == "__main__":
    sys.exit(main())
