"""The options of `tombola export`, without heavy imports."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from tombola import plugins
from tombola.errors import TombolaError

from .options import STORE, AllowImports, Data, Model, Store

_TO = (
    "The file to write: .onnx for ONNX Runtime and others, .pt2 for torch.export, or .ticket, a compact file for tombola. "
    "The first two have the mean weights without another option."
)


def export(
    ticket: Annotated[
        str, typer.Argument(metavar="TICKET", help="The file of a trained ticket, or a key of the store, or its beginning.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help=_TO)],
    samples: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Average the class probabilities of N fixed weight samples.")
    ] = None,
    moments: Annotated[bool, typer.Option("--moments", help="Carry mean and variance through the net in one pass.")] = False,
    store_as: Annotated[
        Literal["exact", "fp16", "int8"] | None,
        typer.Option("--store-as", help="Numbers of a .ticket file; what rounding costs is measured on the ticket's data."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weight samples.")] = 0,
    store: Store = STORE,
    model: Model = None,
    data: Data = None,
    allow_imports: AllowImports = False,
) -> int:
    """Write a trained ticket for other tools: ONNX, torch.export, or a compact file."""
    from .exporting import write_compact, write_network

    compact = to.suffix == ".ticket"
    if to.suffix not in (".onnx", ".pt2", ".ticket"):
        raise TombolaError(f"--to is {to}; its name must end in .onnx, .pt2 or .ticket")
    if samples is not None and moments:
        raise TombolaError("--samples and --moments are both given; choose one")
    if compact and (samples is not None or moments):
        raise TombolaError("a .ticket file has the whole posterior; leave --samples and --moments out")
    if store_as is not None and not compact:
        raise TombolaError(f"--store-as is for a .ticket file, --to is {to}; change one of them")
    with plugins.imports(allowed=allow_imports):
        if compact:
            return write_compact(ticket, to, store_as or "exact", seed=seed, store=store, model=model, data=data)
        kind: Literal["mean", "samples", "moments"] = "moments" if moments else "mean" if samples is None else "samples"
        how = {"kind": kind, "samples": samples or 16, "seed": seed}
        return write_network(ticket, to, how, store=store, model=model, data=data)
