"""Tickets as programs of torch.export, and as ONNX.

Legend: B examples.
"""

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import tombola
from tombola.errors import TombolaError, is_out_of_memory
from tombola.files import written_aside
from tombola.posterior.families import draws_of
from tombola.pruning.ticket import Ticket

from .networks import Kind, Network, network_of

_TOLERANCE = 1e-4
"""Largest difference of an exported network from the module, over the largest output, or over 1 where that is larger."""

_LIMIT = 2**31 - 2**24
"""Bytes of weights in an ONNX file: protobuf has no messages of 2 GiB."""


def program(
    ticket: Ticket,
    module: nn.Module,
    example: Any,
    path: str | Path | None = None,
    *,
    kind: Kind = "mean",
    samples: int = 16,
    seed: int = 0,
) -> ExportedProgram:
    """Return the ticket's network as a program of torch.export for batches of any size; write it to `path` (.pt2) if given.

    The inputs of the program are the example's by position. `module` is not changed.

    kind: `mean`, the logits [B, C] (of a regression the mean) by the mean weights; `samples`, the average class
        probabilities [B, C] over `samples` fixed weight samples, those of `ticket.predict` of that seed with their
        batch-norm statistics (of a posterior of K points at most K), and the mutual information with the weights in nats
        [B] (of a regression: the mean and its variance over the samples); `moments`, mean and variance of the logits, each
        [B, C], in one pass (see `tombola.deploy.compile_moments`).
    example: inputs as the module takes them: a tensor, a tuple or a mapping of tensors [B, ...].

    Raises TombolaError for an unknown kind, for a ticket that is untrained, of another model, or not finite, for an
    operation without a rule of moments, where torch.export cannot follow the module for any number of examples, and where
    the program differs from the module.
    """
    network = network_of(ticket, module, example, kind=kind, samples=samples, seed=seed)
    found = _exported(network, type(module).__name__)
    if path is not None:
        with _written(Path(path), ".pt2") as aside:
            torch.export.save(found, aside)
    return found


def onnx(
    ticket: Ticket,
    module: nn.Module,
    example: Any,
    path: str | Path,
    *,
    kind: Kind = "mean",
    samples: int = 16,
    seed: int = 0,
) -> None:
    """Write the ticket's network as one ONNX file, for batches of any size, after a comparison in ONNX Runtime.

    Inputs are named as in a mapping, `input_0`, `input_1` ... of a tuple, `input` of a tensor; outputs are `logits` (of a
    regression `mean`), `probs` and `epistemic` (of a regression `mean` and `epistemic`), or `mean` and `variance`.
    Arguments as of `program`.

    Raises TombolaError as `program` does, without the packages of the extra `onnx`, for an operation that ONNX lacks, and
    for weights of 2 GiB or more.
    """
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
        raise TombolaError(f"ONNX needs {missing[0]}, which is not installed: pip install 'tombola[onnx]'")
    network = network_of(ticket, module, example, kind=kind, samples=samples, seed=seed)
    size = sum(t.numel() * t.element_size() for t in network.module.state_dict().values())
    if size > _LIMIT:
        raise TombolaError(f"the weights take {size / 2**30:.1f} GiB, an ONNX file has less than 2; export fewer samples")
    name = type(module).__name__
    made = _as_onnx(_exported(network, name), network, name)
    about: dict[str, Any] = {"version": tombola.__version__, "kind": kind, "density": ticket.density}
    if kind == "samples":
        about |= {"samples": draws_of(ticket.posterior, samples), "seed": seed}
    made.model.metadata_props["tombola"] = json.dumps(about)
    with _written(Path(path), ".onnx") as aside:
        made.save(aside, external_data=False)
        session = _session(aside)
        _compare(network, lambda inputs: _run(session, network, inputs), name)


def _exported(network: Network, name: str) -> ExportedProgram:
    """Return the program, for any number of examples, compared with the network."""
    batch = torch.export.Dim("batch")
    two = tuple(value[:1].repeat(2, *[1] * (value.ndim - 1)) for value in network.inputs.values())  # one would be fixed
    dynamic = tuple({0: batch} for _ in two)
    try:
        with _quiet(), torch.no_grad():
            found = torch.export.export(network.module, two, dynamic_shapes=_shapes(network.module, dynamic))
    except Exception as error:  # torch.export's errors have no class in common
        if is_out_of_memory(error):
            raise
        first = str(error).strip().partition("\n")[0]
        raise TombolaError(f"torch.export cannot follow {name}, so it cannot be exported: {first}") from error
    run = found.module()
    _compare(network, lambda inputs: run(*inputs), name)
    return found


def _shapes(module: nn.Module, dynamic: tuple[Any, ...]) -> Any:
    """Return dynamic shapes as torch.export wants them: those of `*inputs` in a tuple of their own."""
    return dynamic if module.forward.__code__.co_argcount > 1 else (dynamic,)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporters: they warn of their own parts, and log that torchvision is not installed."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _as_onnx(found: ExportedProgram, network: Network, name: str) -> Any:
    try:
        with _quiet():
            made = torch.onnx.export(
                found, dynamo=True, input_names=list(network.inputs), output_names=list(network.outputs), verbose=False
            )
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise TombolaError(f"{name} cannot be written as ONNX: {_reason(error)}") from error
    assert made is not None
    _name_apart(made.model.graph, {*network.inputs, *network.outputs})
    return made


def _name_apart(graph: Any, names: set[str]) -> None:
    """Rename values within an ONNX graph that have the name of an input or output: torch names them after operations."""
    ends = {id(value) for value in (*graph.inputs, *graph.outputs)}
    for node in graph:
        for value in node.outputs:
            if value.name in names and id(value) not in ends:
                value.name = f"{value.name}_within"


def _reason(error: BaseException) -> str:
    """Return the sentence that names the operation: the innermost cause has it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _session(path: Path) -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def _run(session: Any, network: Network, inputs: Sequence[Tensor]) -> list[Tensor]:
    feed = {name: value.numpy() for name, value in zip(network.inputs, inputs, strict=True)}
    wanted = {one.name for one in session.get_inputs()}  # an input that no operation reads is left out
    return [
        torch.from_numpy(value)
        for value in session.run(list(network.outputs), {k: v for k, v in feed.items() if k in wanted})
    ]


def _compare(network: Network, run: Callable[[list[Tensor]], Any], name: str) -> None:
    """Raise TombolaError unless `run` gives the network's outputs of the example, in one batch and for one row of it."""
    inputs = list(network.inputs.values())
    with torch.no_grad():
        expected = _tensors(network.module(*inputs))
        for rows in (slice(None), slice(1)):
            for one, other in zip(expected, _tensors(run([value[rows] for value in inputs])), strict=True):
                error = float((one[rows] - other).abs().max() / one.abs().max().clamp_min(1.0))
                if not error <= _TOLERANCE:
                    raise TombolaError(
                        f"exported, {name} differs from itself by {error:.1e} of its largest output; a network whose "
                        "outputs are random or not finite, or depend on the other examples of a batch, cannot be exported"
                    )


def _tensors(outputs: Any) -> list[Tensor]:
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def _written(path: Path, suffix: str) -> AbstractContextManager[Path]:
    """Return `written_aside` of a path that can be written. Raises TombolaError for another suffix, or no such folder."""
    if path.suffix != suffix:
        raise TombolaError(f"the file is {path.name!r}; its name must end in {suffix}")
    if not path.parent.is_dir():
        raise TombolaError(f"there is no folder {path.parent}; make it, or choose another path")
    return written_aside(path, path.with_name(f".{os.getpid()}.{path.name}"))  # torch wants its suffix
