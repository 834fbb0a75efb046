"""The time of a compiled ticket (`tombola.compile`), over the dense deterministic network.

    python -m benchmarks.deploy [--quick] [--nets vgg11 ...] [--masks 95% ...] [--batches 1 16 128] [--add]
        [--path FILES] [--store FOLDER] [--figure FILE]
    python -m benchmarks.deploy --first-use

Beside the mean: moments (mean and variance in one pass) and 16 compiled weight samples; for VGG-11 the dense network in
other runtimes, where they are installed; bytes of the files; and the share of weights at which sparse kernels break even.
Then tickets of a chain that is trained here (`benchmarks.deploy_tickets`): their quality, milliseconds and memory.

Random masks: the same share of zeros in every prunable layer, and for VGG-11 the shares that the layers of real tickets with
1.26% of the weights had. All configurations are interleaved in one process; medians, in one thread of the processor's time,
which other processes don't stretch. The divisor is the fastest of the dense
fp32 forward passes (contiguous and channels-last). Before anything is timed, the compiled outputs are compared with the
masked network's. --add keeps the other rows of the record that is there, so that a record can be made piece by piece. Exit
code 1 when a target is missed.
"""

import argparse
import copy
import itertools
import json
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import tombola
from benchmarks import deploy_first_use, deploy_tickets
from benchmarks.deploy_figure import draw
from benchmarks.deploy_peers import runtimes
from benchmarks.record import Row, finish, judged, parser
from benchmarks.tickets import random_ticket
from benchmarks.timing import clock_of, compared, show
from tombola.deploy import compile_moments
from tombola.deploy.dead import without_dead_channels
from tombola.deploy.graph import graph_of, traced
from tombola.deploy.predictor import Predictor
from tombola.deploy.uncertain import Samples
from tombola.models import build
from tombola.pruning.ticket import Ticket

SHAPES = {
    "vgg11": (3, 32, 32),
    "resnet20": (3, 32, 32),
    "resnet18": (3, 32, 32),
    "vit_tiny": (3, 32, 32),
    "mlp": (1, 28, 28),
}
MASKS: dict[str, float | list[float]] = {
    "95%": 0.05,
    "98%": 0.02,
    "99%": 0.01,
    "layers of a ticket with 11%": [0.77, 0.52, 0.31, 0.23, 0.18, 0.17, 0.029, 0.030],
    "layers of a ticket with 3.8%": [0.70, 0.37, 0.16, 0.093, 0.050, 0.041, 0.011, 0.011],
    "layers of a ticket": [0.59, 0.24, 0.077, 0.036, 0.011, 0.0065, 0.0035, 0.0039],
}
TARGETS = {
    1: {
        "layers of a ticket with 11%": 3.5,
        "layers of a ticket with 3.8%": 7,
        "95%": 9,
        "98%": 14,
        "99%": 20,
        "layers of a ticket": 12,
    },
    16: {
        "layers of a ticket with 11%": 1.5,
        "layers of a ticket with 3.8%": 4,
        "95%": 5.5,
        "98%": 11,
        "99%": 18,
        "layers of a ticket": 7.5,
    },
    128: {
        "layers of a ticket with 11%": 1.5,
        "layers of a ticket with 3.8%": 3.3,
        "95%": 5.5,
        "98%": 11,
        "99%": 18,
        "layers of a ticket": 7,
    },
}
"""Batch -> mask -> times that a compiled VGG-11 is to be faster; no network is to be slower by more than 5%."""
UNCERTAIN = {
    "98%": {"moments": 0.30, "16 samples": 1.8},
    "layers of a ticket with 3.8%": {"moments": 0.85},
    "layers of a ticket": {"moments": 0.50},
}
"""Mask -> most time that a Bayesian prediction is to take over one dense deterministic pass of VGG-11."""
EVEN = ("resnet20", "resnet18", "vit_tiny")
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5, 0.999)
_DENSE, _OURS, _MOMENTS, _SAMPLED, _SAMPLES = "dense", "compiled ticket", "moments", "16 samples", 16
Calls = dict[str, Callable[[], Any]]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("deploy", __doc__)
    arguments.add_argument("--nets", nargs="+", choices=SHAPES, default=list(SHAPES), help="which networks (all)")
    arguments.add_argument("--masks", nargs="+", choices=MASKS, default=list(MASKS), help="which masks (all)")
    arguments.add_argument("--batches", nargs="+", type=int, default=[1, 16, 128], help="examples a batch (1 16 128)")
    arguments.add_argument("--width", type=int, help="width of VGG and ResNet, for a test")
    arguments.add_argument("--plain", dest="uncertain", action="store_false", help="the mean alone")
    arguments.add_argument("--no-peers", dest="peers", action="store_false", help="without other runtimes")
    arguments.add_argument("--first-use", action="store_true", help="only what the first use on a machine compiles")
    arguments.add_argument("--no-tickets", dest="tickets", action="store_false", help="without trained tickets")
    arguments.add_argument("--path", help="CIFAR-10 for trained tickets (else the built-in digits): files on this machine")
    arguments.add_argument("--store", type=Path, default=Path("runs/deploy"), help="finished stages of trained tickets")
    arguments.add_argument("--figure", type=Path, help="draw quality over milliseconds of trained tickets here, as a PNG")
    arguments.add_argument("--add", action="store_true", help="keep the other rows of the record at --out")
    args = arguments.parse_args(argv)
    if args.first_use:
        return finish("deploy", [deploy_first_use.measured()], None, argv)
    rows: list[Row] = []
    evens: list[Row] = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for net in args.nets:
            masks = [mask for mask in args.masks if net == "vgg11" or isinstance(MASKS[mask], float)]
            made = {"width": args.width} if args.width and net in ("vgg11", "resnet20") else {}
            module = build(net, made, SHAPES[net], 10, ("benchmark",)).eval()
            for batch in args.batches:
                x = _inputs(net, batch)
                peers = runtimes(module, x, threads) if args.peers and net == "vgg11" else {}
                rows += [_row(net, module, mask, batch, threads, args, peers) for mask in masks]
                if args.uncertain and net in EVEN and batch == 16:
                    evens.append(_break_even(net, module, batch, threads, args.quick))
    torch.set_num_threads(args.threads[0])
    more: Row = {"tickets": deploy_tickets.measured(args.path, args.store, args.quick)} if args.tickets else {}
    if args.figure and more:
        draw(more["tickets"], args.figure)
    if args.add and args.out is not None and args.out.is_file():
        new = {_key(row) for row in rows}
        before = json.loads(args.out.read_text())
        rows = [row for row in before["rows"] if _key(row) not in new] + rows
        evens = [*before.get("break_even", []), *evens]
        more = {"tickets": before["tickets"]} | more if "tickets" in before else more
    # of a record made piece by piece, the command of the last piece would say too little
    return finish("deploy", rows, args.out, ["--add"] if args.add else argv, break_even=evens, **more)


def _key(row: Row) -> tuple[str, str, int, int]:
    return row["net"], row["mask"], row["batch"], row["threads"]


@torch.no_grad()
def _row(net: str, module: nn.Module, mask: str, batch: int, threads: int, args: argparse.Namespace, peers: Calls) -> Row:
    x = _inputs(net, batch)
    ticket = random_ticket(module, MASKS[mask], std=0.1)
    predictor = tombola.compile(ticket, module, x)
    masked = torch.func.functional_call(module, ticket.state_dict(module), (x,))
    assert (predictor(x) - masked).abs().max() <= 1e-4 * masked.abs().max(), f"{net}, {mask} of zeros: outputs differ"
    calls = {**_dense(module, x), **peers, _OURS: partial(predictor, x)}
    if args.uncertain:
        calls[_MOMENTS] = partial(compile_moments(ticket, module, x), x)
        samples = [random_ticket(module, MASKS[mask], seed=s) for s in range(_SAMPLES)]
        program = traced(module, x)
        calls[_SAMPLED] = partial(Samples([_as(predictor, each, module, program, x) for each in samples]), x)
    repeats = (3 if args.quick else 9) * (4 if batch == 1 else 1)
    times = compared(calls, repeats, f"{_DENSE}, fp32", clock_of(threads))
    row = {"net": net, "mask": mask, "batch": batch, "threads": threads, "kernels": predictor.kernels(), **times}
    row |= {"bytes": _bytes(ticket, module)}
    show(row)
    targets = TARGETS.get(batch, {}) if net == "vgg11" else {}
    wanted = {_OURS: 1 / targets[mask] if mask in targets else 1.05}
    if net == "vgg11":
        wanted |= UNCERTAIN.get(mask, {})
    return judged(row, row["ratio"], wanted)


def _as(predictor: Predictor, ticket: Ticket, module: nn.Module, program: Any, x: Tensor) -> Predictor:
    """Return another ticket on the kernels that were chosen for one of equal densities."""
    graph = graph_of(program, module, ticket.state_dict(module))
    without_dead_channels(graph)
    return Predictor(graph, predictor.choice, x)


def _inputs(net: str, batch: int) -> Tensor:
    return torch.randn(batch, *SHAPES[net], generator=torch.Generator().manual_seed(0))


def _bytes(ticket: Ticket, module: nn.Module) -> dict[str, int]:
    """Return the sizes of the files of the ticket (mean and std, rewind state too), and of the dense network."""
    with TemporaryDirectory() as folder:
        ticket.save(Path(folder) / "ticket")
        torch.save(module.state_dict(), Path(folder) / "dense")
        return {path.name: path.stat().st_size for path in Path(folder).iterdir()}


def break_even(row_of: dict[float, float]) -> float | None:
    """Return the share of weights at which sparse kernels are as slow as dense, interpolated on a log scale.

    row_of: share left -> time over dense. None where no two neighbours have it between them.
    """
    shares = sorted(row_of)
    for low, high in itertools.pairwise(shares):
        if row_of[low] <= 1 < row_of[high]:
            a, b = math.log(row_of[low]), math.log(row_of[high])
            return math.exp(math.log(low) + (math.log(high) - math.log(low)) * -a / (b - a))
    return None


@torch.no_grad()
def _break_even(net: str, module: nn.Module, batch: int, threads: int, quick: bool) -> Row:
    """Measure sparse kernels throughout over dense at several shares of weights left."""
    x = _inputs(net, batch)
    ours = {f"{share}": tombola.compile(random_ticket(module, share), module, x, kernels="sparse") for share in SHARES}
    calls = {**_dense(module, x), **{label: partial(each, x) for label, each in ours.items()}}
    times = compared(calls, 2 if quick else 5, f"{_DENSE}, fp32", clock_of(threads))
    found = break_even({share: times["ratio"][f"{share}"] for share in SHARES})
    print(f"{net}, batch {batch}: sparse kernels throughout break even at {found and f'{found:.0%}'} of the weights")
    return {"net": net, "batch": batch, "threads": threads, "break_even": found, "ratio": times["ratio"]}


def _dense(module: nn.Module, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the dense forward passes by label."""
    images = "channels_last"
    last = copy.deepcopy(module).to(memory_format=torch.channels_last)
    low = copy.deepcopy(last).bfloat16()
    xs = x.contiguous(memory_format=torch.channels_last)
    return {
        f"{_DENSE}, fp32, contiguous": partial(module, x),
        f"{_DENSE}, fp32, {images}": partial(last, xs),
        f"{_DENSE}, bf16, {images}": partial(low, xs.bfloat16()),
    }


if __name__ == "__main__":
    sys.exit(main())
