"""The time of a product by a 2:4 weight on torch's semi-structured kernels: python -m benchmarks.gpu.two_four [--out FILE].

The linear layers of ViTs and of larger networks, fp16, with weights of a 2:4 mask by `keep_in_groups`, over the dense
product of the same masked weights, interleaved on one GPU, medians. Before anything is timed the outputs are compared. Only
a GPU of compute capability 8.0 or above has such kernels. Convolutions have none in torch, and on a CPU zeros in groups are
zeros like others: `tombola.compile` skips them, faster only where few weights are left.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.record import Row, parser, write
from benchmarks.timing import compared, show
from tombola.errors import TombolaError
from tombola.posterior.layout import Layout
from tombola.pruning.masks import keep_in_groups

LAYERS = {
    "vit_tiny, up": (768, 192, 64 * 128),
    "vit_base, up": (3072, 768, 64 * 128),
    "vit_base, down": (768, 3072, 64 * 128),
    "4096 x 4096": (4096, 4096, 8192),
    "4096 x 4096, few rows": (4096, 4096, 64),
}
"""Name -> outputs, inputs, rows (tokens of a batch of 128 images)."""


def main(argv: Sequence[str] | None = None) -> int:
    args = parser("gpu.two_four", __doc__).parse_args(argv)
    try:
        _check_device()
    except TombolaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = [_row(name, *shape, repeats=10 if args.quick else 100) for name, shape in LAYERS.items()]
    write(args.out, "gpu.two_four", rows, argv)
    return 0


def _check_device() -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        raise TombolaError("2:4 products need a GPU of compute capability 8.0 or above; on a CPU there is nothing to gain")


def two_four(outputs: int, inputs: int) -> Tensor:
    """Return a random weight [outputs, inputs] of which the 2 largest of each 4 consecutive inputs are left."""
    layer = nn.Linear(inputs, outputs, bias=False)
    layout = Layout.of(layer, classifier=True)
    weights = layout.flatten(dict(layer.named_parameters()))
    mask = keep_in_groups(layout, torch.ones(layout.numel, dtype=torch.bool), weights.abs(), 2, 4)
    return (weights * mask).view(outputs, inputs)


@torch.no_grad()
def _row(name: str, outputs: int, inputs: int, count: int, *, repeats: int) -> Row:
    weight = two_four(outputs, inputs).half().cuda()
    x = torch.randn(count, inputs, generator=torch.Generator().manual_seed(0)).half().cuda()
    packed = torch.sparse.to_sparse_semi_structured(weight)
    error = (F.linear(x, packed) - F.linear(x, weight)).abs().max() / F.linear(x, weight).abs().max()
    assert error < 1e-2, f"{name}: the outputs differ by {float(error):.1e} of the largest"
    calls = {"dense": partial(_ended, F.linear, x, weight), "2:4": partial(_ended, F.linear, x, packed)}
    row = {
        "net": name,
        "batch": count,
        "threads": torch.get_num_threads(),
        **compared(calls, repeats, "dense"),
        "verdicts": [],
    }
    show(row)
    return row


def _ended(call: Callable[..., Tensor], *args: Tensor) -> None:
    for _ in range(20):  # a launch takes longer than a small product
        call(*args)
    torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
