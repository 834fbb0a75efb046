"""The time of tickets of whole channels (`prune.structure`), beside tickets of as many single weights.

    python -m benchmarks.units [--quick] [--nets resnet20 vgg11] [--densities 0.5 0.25 0.1] [--batch 16]

Channels are random, the same share of each layer; single weights too. Both are compiled (`tombola.compile`); the ticket of
channels is made a smaller module first (`tombola.pruning.smaller`), which is timed in torch as well. The divisor is the
dense module in torch. Medians of interleaved calls, in one process.
"""

import sys
from typing import Any

import torch

import tombola
from benchmarks.record import Row, parser, write
from benchmarks.tickets import random_ticket
from benchmarks.timing import compared, show
from tombola.models import build
from tombola.pruning.iterate import shuffled
from tombola.pruning.masks import prune
from tombola.pruning.smaller import smaller
from tombola.pruning.ticket import Ticket
from tombola.pruning.units import units_of

SHAPE = (3, 32, 32)


def measured(net: str, density: float, batch: int, repeats: int) -> Row:
    """Return milliseconds of a net with that share of its weights, by kind of mask and way to run it."""
    module = build(net, {}, SHAPE, 10, ("benchmark",)).eval()
    example = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(0))
    dense = random_ticket(module, 1.0)
    layout, draw = dense.layout, torch.Generator().manual_seed(1)
    mask = prune(layout, dense.mask, torch.rand(layout.numel, generator=draw), 1 - density, "layerwise")
    start = dense.rewind.as_family("point")
    weights = Ticket(mask, start.masked(mask), start.masked(mask))
    found = shuffled(weights, start, "even", draw, units_of(module, layout, example, "channels"))
    channels = Ticket(found.mask, found.rewind, found.rewind)
    small, own = smaller(channels, module, example)
    calls: dict[str, Any] = {
        "dense, torch": lambda: module(example),
        "channels, smaller module in torch": lambda: small(example),
    }
    for name, ticket, of in (("weights", weights, module), ("channels", own, small)):
        compiled = tombola.compile(ticket, of, example)
        calls[f"{name}, compiled"] = lambda compiled=compiled: compiled(example)
    with torch.inference_mode():
        times = compared(calls, repeats, "dense, torch")
    left = {"weights": weights.density, "channels": channels.density}
    return {"net": net, "batch": batch, "asked": density, "density": left, **times}


def main(arguments: list[str] | None = None) -> int:
    options = parser("units", __doc__)
    options.add_argument("--nets", nargs="+", default=["resnet20", "vgg11"])
    options.add_argument("--densities", nargs="+", type=float, default=[0.5, 0.25, 0.1])
    options.add_argument("--batch", type=int, default=16)
    given = options.parse_args(arguments)
    rows = []
    for threads in given.threads:
        torch.set_num_threads(threads)
        for net in given.nets:
            for density in given.densities:
                rows.append({"threads": threads} | measured(net, density, given.batch, 5 if given.quick else 30))
                show(rows[-1])
    write(given.out, "units", rows, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
