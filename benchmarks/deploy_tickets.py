"""Tickets of one trained chain: how good, how fast and how large each is as a predictor, beside the dense network.

VGG-11 of width 16 (the paper's has 64) on 2,500 images of `--path`, every level with 40% of the multiply-adds of the one
before by snr / cost^0.25; without a path the net `lenet` on the built-in digits. The dense deterministic network has the
same epochs. Finished stages are kept in `--store`, so a run that was stopped goes on where it was.
"""

import copy
import ctypes
import gc
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import tombola
from benchmarks.quietly import Silent
from benchmarks.record import Row
from benchmarks.timing import clock_of, interleaved
from tombola import metrics
from tombola.data import Dataset, digits
from tombola.deploy import compile_moments, compile_samples
from tombola.deploy.predictor import Predictor
from tombola.deploy.uncertain import Samples
from tombola.engine.local import LocalEngine, dataset
from tombola.engine.store import Store
from tombola.export import compact
from tombola.models import build
from tombola.pruning.ticket import Ticket
from tombola.study.plan import Plan, plan_study
from tombola.study.spec import unfold

BATCH = 16
IMAGES = {"subset_test": 2000, "pool": 1}
STUDY: dict[str, Any] = {
    "name": "deploy-tickets",
    "size": "cpu",
    "nets": ["vgg11"],
    "model": {"args": {"width": 16}},
    "prune": {"score": "snr", "budget": "flops", "cost_exponent": 0.25, "fraction": 0.6, "levels": 3},
    "arms": ["deterministic", "ticket"],
}
DENSE = "dense, deterministic"
Probabilities = Callable[[Tensor], Tensor]
"""Inputs [B, ...] -> class probabilities [B, C]."""


def measured(path: str | None, store: Path, quick: bool) -> list[Row]:
    """Return a row for each way to predict of each level: quality on test images, milliseconds, megabytes."""
    began = time.perf_counter()
    net, data, module, (plain, *chain) = _trained(path, store, quick)
    print(f"{net} on {data.name}: trained in {time.perf_counter() - began:.0f} s")
    training, (test, targets) = data.prepare(data.train[0][:256]), data.test
    inputs = data.prepare(test)
    example, rows = inputs[:BATCH], []
    for level, ticket in enumerate([plain, *chain], -1):
        for how, call, predict, held in _ways(ticket, module, example, training, dense=ticket is plain):
            probs = torch.cat([predict(part) for part in inputs.split(512)])
            row = {"net": net, "data": data.name, "batch": BATCH, "threads": torch.get_num_threads(), "how": how}
            row |= {
                "level": max(level, 0),
                "density": ticket.density,
                "call": call,
                "file_bytes": _bytes(ticket, module, how),
            }
            row |= {"accuracy": metrics.accuracy(probs, targets), "nll": metrics.nll(probs, targets)}
            row |= {"ece": float(metrics.ece(probs, targets, 15)), "megabytes": held / 1e6 + _rise(partial(call, example))}
            rows.append(row)
    calls = {f"{row['how']}, level {row['level']}": partial(row.pop("call"), example) for row in rows}
    with torch.no_grad():
        times = interleaved(calls, 10 if quick else 60, clock_of(torch.get_num_threads()))
    for row, seconds in zip(rows, times.values(), strict=True):
        row["milliseconds"] = 1e3 * seconds
        shown = [f"{row[name]:.3f}" for name in ("density", "milliseconds", "accuracy", "nll", "ece", "megabytes")]
        print(f"  {row['how']:24s} level {row['level']}  " + "  ".join(shown))
    return rows


def _trained(path: str | None, store: Path, quick: bool) -> tuple[str, Dataset, nn.Module, list[Ticket]]:
    """Return the dense deterministic network as a ticket, and a chain of Bayesian tickets, dense first."""
    if path is not None:
        return _of_study(path, Store(store))
    data = digits()
    module = build("lenet", {}, data.input_shape, data.outputs, ("benchmark",))
    train = tombola.TrainSettings(epochs=5 if quick else 30, batch_size=64)
    prune = tombola.PruneSettings(score="snr", budget="flops", fraction=0.5, levels=1 if quick else 2)
    chain = tombola.find_tickets(module, data.train, train=train, prune=prune, progress=False)
    none = tombola.PruneSettings(score="magnitude", levels=0)
    plain = tombola.find_tickets(module, data.train, train=replace(train, method="map"), prune=none, progress=False)
    return "lenet", data, module, [*plain, *chain]


def _of_study(path: str, store: Store) -> tuple[str, Dataset, nn.Module, list[Ticket]]:
    """Return the same of VGG-11, trained as far as the store lacks it."""
    plan = plan_study(unfold(STUDY | {"data": {"args": {"path": path, **IMAGES}}}), dataset)
    rows = [row for row in plan.rows if row.labels["arm"] == "ticket" or row.labels["level"] == 0]
    LocalEngine(store, torch.device("cpu"), Silent(), checkpoint_seconds=20.0).run(Plan(plan.name, rows))
    data, module = dataset(rows[0].stage.source.settings), rows[0].stage.net.build("skeleton")
    return "vgg11, width 16", data, module, [store.ticket(row.trained.key) for row in rows]


def _ways(
    ticket: Ticket, module: nn.Module, example: Tensor, training: Tensor, *, dense: bool
) -> Iterator[tuple[str, Callable[[Tensor], Any], Probabilities, int]]:
    """Yield each way to predict: its name, the call that is timed, its probabilities, and the bytes that it holds."""
    if dense:
        for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
            net = ticket.write_mean(copy.deepcopy(module)).eval().to(memory_format=layout)
            call = partial(_forward, net, layout)
            yield f"{DENSE}, {name}", call, partial(_softmax, call), _held(net.state_dict().values())
        return
    mean = tombola.compile(ticket, module, example)
    yield "mean", mean, partial(_softmax, mean), _held(_tensors(mean))
    moments = compile_moments(ticket, module, example, training=training)
    assert isinstance(moments.predictor, Predictor)
    yield "moments", moments, moments.predict, _held(_tensors(moments.predictor))
    samples = compile_samples(ticket, module, example)
    held = [tensor for each in samples.predictors for tensor in _tensors(each)]
    yield "16 samples", samples, partial(_averaged, samples), _held(held)


@torch.no_grad()
def _forward(net: nn.Module, layout: torch.memory_format, x: Tensor) -> Tensor:
    out: Tensor = net(x.contiguous(memory_format=layout))
    return out


def _softmax(call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return call(x).double().softmax(-1)


def _averaged(samples: Samples, x: Tensor) -> Tensor:
    return samples.predict(x).probs


def _tensors(predictor: Predictor) -> Iterator[Tensor]:
    """Yield what a predictor holds: nonzeros and buffers of its programs, and the weights of its graph."""
    for program in predictor._programs.values():
        yield from program.held
    for node in predictor._graph.nodes.values():
        for value in (*node.arguments.values(), *node.variances.values()):
            if isinstance(value, Tensor):
                yield value


def _held(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors; of several in one storage once."""
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


def _rise(call: Callable[[], Any]) -> float:
    """Return by how many megabytes the resident memory rises in a call; 0 where the system does not say it."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not (status.exists() and reset.exists()):
        return 0.0
    call()  # what the first call alone allocates is held
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")  # the peak is the present
    before = _kilobytes(status.read_text(), "VmRSS")
    call()
    return max(0.0, (_kilobytes(status.read_text(), "VmHWM") - before) / 1e3)


def _kilobytes(status: str, name: str) -> int:
    (found,) = re.findall(rf"{name}:\s+(\d+) kB", status)
    return int(found)


def _bytes(ticket: Ticket, module: nn.Module, how: str) -> int:
    """Return the size of the file to ship: of the dense network its state_dict, of a ticket its compact file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        if how.startswith(DENSE):
            torch.save(module.state_dict(), path)
        else:
            compact(ticket, path)
        return path.stat().st_size
