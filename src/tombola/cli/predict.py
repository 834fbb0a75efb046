"""The options of `tombola predict`, without heavy imports."""

from pathlib import Path
from typing import Annotated

import typer

from tombola import plugins
from tombola.errors import TombolaError

from .options import STORE, AllowImports, Data, Device, Json, Model, Store

_INPUT = "A picture, a folder, a table (parquet, csv, json), an array (npy, npz), or OWNER/NAME on the Hugging Face hub."
_ABSTAIN = (
    "risk=R: answer only where at most a share R of the answers is wrong; coverage=C: answer a share C. Chosen on the "
    "validation examples of the ticket's data."
)


def predict(
    ticket: Annotated[
        str,
        typer.Argument(metavar="TICKET", help="The file of a trained ticket, a key of the store, or a shipped one: digits."),
    ],
    inputs: Annotated[str | None, typer.Argument(metavar="[INPUT]", help=_INPUT)] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Average N weight samples; 16 without another method.")
    ] = None,
    moments: Annotated[bool, typer.Option("--moments", help="Carry mean and variance through the net in one pass.")] = False,
    mean: Annotated[bool, typer.Option("--mean", help="Use the mean weights alone; no epistemic part.")] = False,
    abstain_at: Annotated[str | None, typer.Option("--abstain-at", metavar="TARGET", help=_ABSTAIN)] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all predictions: .csv, .parquet or .json.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weight samples.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Number of inputs in a forward pass.")] = 256,
    compiled: Annotated[bool, typer.Option("--compile", help="With --mean: use sparse kernels for this machine.")] = False,
    resize: Annotated[bool, typer.Option("--resize", help="Resize pictures to the ticket's size, a square.")] = False,
    split: Annotated[str | None, typer.Option(help="Split of a data set on the hub; default: test.")] = None,
    device: Device = "auto",
    store: Store = STORE,
    model: Model = None,
    data: Data = None,
    json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors, and JSON if asked for.")] = False,
    allow_imports: AllowImports = False,
) -> int:
    """Predict classes or intervals of new inputs with a trained ticket, with their uncertainty."""
    from .predicting import Request, predict_inputs

    methods = {"samples": samples is not None, "moments": moments, "mean": mean}
    chosen = [name for name, given in methods.items() if given]
    if len(chosen) > 1:
        raise TombolaError(f"--{chosen[0]} and --{chosen[1]} are both given; choose one")
    request = Request(ticket, inputs, device, store, model, data, split, resize, out, json, quiet, abstain_at)
    how = {"method": (chosen or ["samples"])[0], "samples": samples or 16, "seed": seed, "batch": batch_size}
    with plugins.imports(allowed=allow_imports):
        return predict_inputs(request, how | {"compiled": compiled})
