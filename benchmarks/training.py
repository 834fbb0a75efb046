"""The cost of a training step over the fastest deterministic one, in time and memory.

    python -m benchmarks.training [--quick] [--threads 1 2] [--nets resnet20 vit_tiny] [--compile]

Every configuration is interleaved in one process; medians; each is the whole step (gradients and optimiser). The divisor is
the fastest of plain torch loops with fused Adam: inputs and weights contiguous or channels-last and, with --compile,
compiled. Of tombola and of each peer, the faster memory layout is used, found by a few steps of its first configuration.
Before anything is timed, our gradients by weight samples are compared with autograd's (the tests compare the other
estimators'), the peers' outputs without variance with the network's, and each must lower its loss. Freed memory
is kept, unless --return-memory leaves it to the C library, which may give it back and fetch it again. Peak memory has a
process for each configuration. Exit code 1 when a target is missed.
"""

import argparse
import sys
from collections.abc import Sequence

import torch

from benchmarks import peers
from benchmarks.correct import assert_gradients, assert_learns
from benchmarks.memory import Job, peak_megabytes
from benchmarks.nets import AGAINST, AGAINST_TARGETS, NETS, TIMED
from benchmarks.record import PEERS, Row, finish, judged, parser
from benchmarks.steps import DETERMINISTIC, PLAIN, Configuration, configurations, formats
from benchmarks.timing import compared, interleaved, show
from tombola.training.out_of_memory import keep_freed_memory


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("training", __doc__)
    arguments.add_argument("--nets", nargs="+", choices=NETS, default=TIMED, help="which networks (all)")
    arguments.add_argument("--repeats", type=int, default=31, help="rounds; what is slow is timed in fewer (31; --quick: 5)")
    arguments.add_argument("--only", nargs="+", help="which configurations beside the plain loop (all)")
    arguments.add_argument("--batch", type=int, help="examples a step (by default each network's own)")
    arguments.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of every configuration (fp32)")
    arguments.add_argument("--compile", action="store_true", help="with compiled steps; the first takes minutes")
    arguments.add_argument("--return-memory", action="store_true", help="as a process is where nothing is done about it")
    arguments.add_argument("--no-memory", action="store_true", help="without the peak memory")
    args = arguments.parse_args(argv)
    if not args.return_memory:
        keep_freed_memory()
    peers.say_missing()
    rows: list[Row] = []
    for name in args.nets:
        torch.set_num_threads(args.threads[0])
        known = configurations(args.compile)
        chosen = {label: c for label, c in known.items() if c.library == PLAIN or not args.only or label in args.only}
        _assert_correct(name, chosen, args.precision)
        memory: dict[str, float] = {}
        for threads in args.threads:
            torch.set_num_threads(threads)
            row = _timed(name, chosen, threads, args)
            if not memory and not args.no_memory:
                memory = _memory(row, args.batch)
            row["peak_megabytes"] = memory
            show(row)
            rows.append(_judged(row))
    return finish("training", rows, args.out, argv)


def _assert_correct(name: str, chosen: dict[str, Configuration], precision: str) -> None:
    net = NETS[name]
    inputs, targets = net.data(16)
    assert_gradients(net.make(), (inputs, targets))
    for package in {c.library for c in chosen.values()} & set(PEERS):
        peers.assert_same_outputs(package, net.make(), inputs)
    for label, configuration in chosen.items():
        # the others differ from a checked one by a number, or by torch.compile, which takes a minute
        if "compiled" not in label and not label.startswith(("vi, ", "torch-blue, 10")):
            assert_learns(label, configuration.step(net, 16, precision, formats(net)[-1]))


def _timed(name: str, chosen: dict[str, Configuration], threads: int, args: argparse.Namespace) -> Row:
    """Return the medians, and their ratios to the fastest deterministic step."""
    net, repeats = NETS[name], 5 if args.quick else args.repeats
    layouts = _faster_layouts(name, chosen, args)
    steps = {}
    for label, configuration in chosen.items():
        plain = configuration.library == PLAIN
        for layout in formats(net) if plain else [layouts[configuration.library]]:
            named = f"{label}, {layout}" if plain else label
            steps[named] = configuration.step(net, args.batch, args.precision, layout)
    return {
        "net": name,
        "batch": args.batch or net.batch,
        "precision": args.precision,
        "threads": threads,
        "freed_memory": "returned" if args.return_memory else "kept",
        **compared(steps, repeats, DETERMINISTIC),
        "layout": layouts,
    }


def _faster_layouts(name: str, chosen: dict[str, Configuration], args: argparse.Namespace) -> dict[str, str]:
    """Return library -> layout, from a few steps of the library's first configuration; of plain loops, both are timed."""
    net, found = NETS[name], {}
    leads = {c.library: c for c in reversed(chosen.values()) if c.library != PLAIN}
    if len(formats(net)) == 1:
        return dict.fromkeys(leads, formats(net)[0])
    for library, configuration in leads.items():
        steps = {layout: configuration.step(net, args.batch, args.precision, layout) for layout in formats(net)}
        medians = interleaved(steps, 2 if args.quick else 5)
        found[library] = min(medians, key=lambda layout: medians[layout])
    return found


def _memory(row: Row, batch: int | None) -> dict[str, float]:
    """Return megabytes by label; of deterministic ones only the fastest. Empty where they cannot be measured."""
    known, jobs = configurations(), {}
    for label in row["ratio"]:
        plain = label.startswith(DETERMINISTIC)
        name, _, layout = label.rpartition(", ") if plain else (label, "", "")
        if name in known and (not plain or label == row["fastest"]):
            layout = layout or row["layout"][known[name].library]
            jobs[label] = Job(row["net"], name, batch, row["precision"], layout, row["threads"])
    peaks = peak_megabytes(list(jobs.values()))
    return dict(zip(jobs, peaks, strict=True)) if peaks is not None else {}


def _judged(row: Row) -> Row:
    """Return the row with its verdicts; targets are for fp32 and each network's own batch."""
    net = NETS[row["net"]]
    if row["precision"] != "fp32" or row["batch"] != net.batch:
        return judged(row, {}, {})
    found, targets, (us, them) = dict(row["ratio"]), dict(net.targets), AGAINST
    for what, values in (("time", row["ratio"]), ("peak memory", row["peak_megabytes"])):
        if us in targets and us in values and them in values:
            label = f"{what} of {us}, over {them}"
            found[label], targets[label] = values[us] / values[them], AGAINST_TARGETS[what]
    return judged(row, found, targets)


if __name__ == "__main__":
    sys.exit(main())
