"""The time of a compiled ticket (`tombola.compile`), over the dense deterministic network.

    python -m benchmarks.deploy [--quick] [--nets vgg11 ...] [--masks 95% ...] [--batches 1 16 128] [--add]

Random masks: the same share of zeros in every prunable layer, and for VGG-11 the shares that the layers of real tickets with
1.26% of the weights had. All configurations are interleaved in one process; medians. The divisor is the fastest of the dense
fp32 forward passes (contiguous and channels-last). Before anything is timed, the compiled outputs are compared with the
masked network's. --add keeps the other rows of the record that is there, so that a record can be made piece by piece. Exit
code 1 when a target is missed.
"""

import copy
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

import tombola
from benchmarks.record import Row, finish, judged, parser
from benchmarks.tickets import random_ticket
from benchmarks.timing import compared, show
from tombola.models import build

SHAPES = {"vgg11": (3, 32, 32), "resnet20": (3, 32, 32), "vit_tiny": (3, 32, 32), "mlp": (1, 28, 28)}
MASKS: dict[str, float | list[float]] = {
    "95%": 0.05,
    "98%": 0.02,
    "99%": 0.01,
    "layers of a ticket": [0.59, 0.24, 0.077, 0.036, 0.011, 0.0065, 0.0035, 0.0039],
}
TARGETS = {
    1: {"95%": 9, "98%": 14, "99%": 20, "layers of a ticket": 12},
    16: {"95%": 5.5, "98%": 11, "99%": 18, "layers of a ticket": 7.5},
    128: {"95%": 5.5, "98%": 11, "99%": 18, "layers of a ticket": 7},
}
"""Batch -> mask -> times that a compiled VGG-11 is to be faster; no network is to be slower by more than 5%."""
_DENSE = "dense"
_OURS = "compiled ticket"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("deploy", __doc__)
    arguments.add_argument("--nets", nargs="+", choices=SHAPES, default=list(SHAPES), help="which networks (all)")
    arguments.add_argument("--masks", nargs="+", choices=MASKS, default=list(MASKS), help="which masks (all)")
    arguments.add_argument("--batches", nargs="+", type=int, default=[1, 16, 128], help="examples a batch (1 16 128)")
    arguments.add_argument("--width", type=int, help="width of VGG and ResNet, for a test")
    arguments.add_argument("--add", action="store_true", help="keep the other rows of the record at --out")
    args = arguments.parse_args(argv)
    rows: list[Row] = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for net in args.nets:
            masks = [mask for mask in args.masks if net == "vgg11" or isinstance(MASKS[mask], float)]
            made = {"width": args.width} if args.width and net in ("vgg11", "resnet20") else {}
            module = build(net, made, SHAPES[net], 10, ("benchmark",)).eval()
            for batch in args.batches:
                rows += [_row(net, module, mask, batch, threads, 5 if args.quick else 15) for mask in masks]
    if args.add and args.out is not None and args.out.is_file():
        new = {_key(row) for row in rows}
        rows = [row for row in json.loads(args.out.read_text())["rows"] if _key(row) not in new] + rows
    # of a record made piece by piece, the command of the last piece would say too little
    return finish("deploy", rows, args.out, ["--add"] if args.add else argv)


def _key(row: Row) -> tuple[str, str, int, int]:
    return row["net"], row["mask"], row["batch"], row["threads"]


@torch.no_grad()
def _row(net: str, module: nn.Module, mask: str, batch: int, threads: int, repeats: int) -> Row:
    x = torch.randn(batch, *SHAPES[net], generator=torch.Generator().manual_seed(0))
    ticket = random_ticket(module, MASKS[mask])
    predictor = tombola.compile(ticket, module, x)
    masked = torch.func.functional_call(module, ticket.state_dict(module), (x,))
    assert (predictor(x) - masked).abs().max() <= 1e-4 * masked.abs().max(), f"{net}, {mask} of zeros: outputs differ"
    times = compared(
        {**_dense(module, x), _OURS: partial(predictor, x)}, repeats * (4 if batch == 1 else 1), f"{_DENSE}, fp32"
    )
    targets = TARGETS.get(batch, {}) if net == "vgg11" else {}
    row = {"net": net, "mask": mask, "batch": batch, "threads": threads, "kernels": predictor.kernels(), **times}
    show(row)
    return judged(row, row["ratio"], {_OURS: 1 / targets[mask] if mask in targets else 1.05})


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
