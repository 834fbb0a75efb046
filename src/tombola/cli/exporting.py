"""The command export: a trained ticket as a network or as a compact file, with sizes and what rounding costs."""

from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from tombola import export as exports
from tombola import plugins
from tombola.data.dataset import Dataset
from tombola.errors import TombolaError
from tombola.files import in_words
from tombola.posterior.batch_norm import KEPT, has_own
from tombola.pruning.compact import StoredAs
from tombola.pruning.ticket import Ticket, load
from tombola.settings import EvaluateSettings
from tombola.training.reference import stored_reference

from .evaluate import built, data_of, measured, named_by, ticket_path
from .terminal import Screen

_CPU = torch.device("cpu")


def write_network(name: str, to: Path, how: dict[str, Any], *, store: Path, model: str | None, data: str | None) -> int:
    """Write a ticket's network as ONNX (.onnx) or as a program of torch.export (.pt2), and print its size.

    name: a file or a key, as of `evaluate`. how: kind, samples and seed, as of `tombola.export.program`. model, data: in
    place of the ones that the ticket names. Raises TombolaError for a ticket that is damaged or untrained, lack of its model
    or data, and a network that cannot be exported.
    """
    path = ticket_path(name, store)
    ticket = load(path)
    module, found = _model_of(ticket, path, model, data)
    if module is None:
        raise TombolaError(f"{path} does not name its model (it was saved from Python); give --model and --data")
    samples = how["samples"] if how["kind"] == "samples" else 1
    if has_own(module, ticket.posterior) and not _has_statistics(ticket, samples, how["seed"]):
        found = found or data_of(ticket, path, data)
        (reference,) = stored_reference(found.train[0], found.prepare, _CPU)
        ticket = ticket.with_statistics(module, reference, samples=max(samples, KEPT), seed=how["seed"])
    example = torch.randn(2, *ticket.info["model"]["input_shape"]) if found is None else _first(found)
    write = exports.onnx if to.suffix == ".onnx" else exports.program
    write(ticket, module, example, to, **how)
    print(f"{to}: {how['kind']} of {path.name}, {_beside_dense(to, ticket)}")
    return 0


def write_compact(
    name: str, to: Path, stored_as: StoredAs, *, seed: int, store: Path, model: str | None, data: str | None
) -> int:
    """Write a ticket's compact file; print its size, and where model and data are named what rounding costs.

    Arguments and errors as of `write_network`; stored_as: as of `tombola.export.compact`.
    """
    path = ticket_path(name, store)
    ticket = load(path)
    small = exports.compact(ticket, to, store_as=stored_as)
    print(f"{to}: {stored_as} numbers of {path.name}, {_beside_dense(to, ticket)}")
    if stored_as == "exact":
        return 0
    module, found = _model_of(ticket, path, model, data)
    if module is None or not (found or data or ticket.info.get("data")):
        print("what rounding costs is not measured: the ticket names no model and data; give --model and --data")
        return 0
    found = found or data_of(ticket, path, data)
    rows = [measured(module, one, found, EvaluateSettings(), seed, _CPU) for one in (ticket, small)]
    table = Table(title=f"test split of {found.name} ({rows[0]['examples']} examples)")
    for column in ("metric", path.name, to.name, "change"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for metric in [metric for metric in ("accuracy", "rmse", "nll", "ece") if metric in rows[0]]:
        before, after = (float(row[metric]) for row in rows)
        table.add_row(metric, f"{before:.6g}", f"{after:.6g}", f"{after - before:+.2g}")
    Screen().print(table)
    return 0


def _model_of(ticket: Ticket, path: Path, model: str | None, data: str | None) -> tuple[nn.Module | None, Dataset | None]:
    """Return the module of a ticket, None if nothing names it, and the data if they were needed or typed."""
    found = data_of(ticket, path, data) if model or data else None
    if model is None:
        about = ticket.info.get("model")
        return (built(about, ticket) if about else None), found
    assert found is not None
    with plugins.imports(allowed=True):  # the caller has typed it
        shape: dict[str, Any] = {"input_shape": found.input_shape, "outputs": found.outputs}
        return built(named_by(model, "--model") | shape, ticket), found


def _has_statistics(ticket: Ticket, samples: int, seed: int) -> bool:
    """Return whether a ticket keeps batch-norm statistics of `samples` weight samples of the seed."""
    own = ticket.statistics
    return own is not None and own.seed == seed and own.kept >= samples


def _first(found: Dataset) -> Tensor:
    """Return two training inputs as the network takes them."""
    inputs = found.train[0][:2]
    return found.prepare(inputs)


def _beside_dense(path: Path, ticket: Ticket) -> str:
    """Return the size of a file in words, and beside the dense deterministic network in single precision."""
    size = path.stat().st_size
    buffers = sum(value.numel() * value.element_size() for value in ticket.end.buffers.values())
    dense = 4 * ticket.layout.numel + buffers
    return f"{in_words(size)}, {size / dense:.1%} of the dense network's {in_words(dense)}"
