"""Tickets of Hugging Face models, in folders that plain transformers loads."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tombola.errors import TombolaError, is_out_of_memory
from tombola.pruning.ticket import Ticket, load

TICKET = "ticket.safetensors"
"""Name of the ticket's file in such a folder."""


def save_pretrained(ticket: Ticket, model: nn.Module, folder: str | Path) -> None:
    """Write a model of transformers with the ticket's mean weights, and the ticket beside it.

    `config.json` and `model.safetensors` are those of the model's own `save_pretrained`: plain transformers loads the folder
    as an ordinary, sparse model. `from_pretrained` gives model and ticket back. `model` is not changed.

    Raises TombolaError for a model without `save_pretrained`, and a ticket that is untrained or of another model.
    """
    if not callable(getattr(model, "save_pretrained", None)):
        raise TombolaError(f"{type(model).__name__} is no model of transformers; save the ticket by ticket.save")
    folder = Path(folder)
    weights = ticket.state_dict(model)
    (folder / TICKET).unlink(missing_ok=True)  # an older one, in case that this is interrupted
    mean = copy.deepcopy(model)
    mean.load_state_dict(weights)
    try:
        mean.save_pretrained(folder)  # type: ignore[operator]
    except OSError as error:
        raise TombolaError(f"cannot write {folder}: {error.strerror or error}; choose another folder") from None
    ticket.save(folder / TICKET)


def from_pretrained(folder: str | Path) -> tuple[nn.Module, Ticket]:
    """Return model and ticket of a folder; `config.json` names the model's class in transformers.

    The model has the mean weights and is in evaluation mode. No code of the folder is run, and nothing is downloaded.

    Raises TombolaError for a folder that `save_pretrained` did not write whole, a class that transformers lacks, and
    weights that are not the ticket's mean.
    """
    folder = Path(folder)
    for name in ("config.json", TICKET):
        if not (folder / name).is_file():
            raise TombolaError(f"{folder} has no {name}; give a folder that tombola.export.save_pretrained wrote")
    kind = _class_in(folder)
    try:
        model: nn.Module = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of whatever is in the folder
        if is_out_of_memory(error):
            raise
        first = str(error).strip().partition("\n")[0]
        raise TombolaError(f"transformers cannot load {folder}: {first}") from error
    ticket = load(folder / TICKET, model)
    found = model.state_dict()
    for name, value in ticket.state_dict(model).items():
        if not torch.equal(value, found[name]):
            raise TombolaError(f"{name!r} in {folder} is not the mean of its ticket; save model and ticket together anew")
    return model.eval(), ticket


def _class_in(folder: Path) -> Any:
    """Return the class of transformers that a folder's model has. Raises TombolaError where there is none."""
    import transformers

    try:
        about = json.loads((folder / "config.json").read_text())
        (name,) = about["architectures"]
    except (OSError, ValueError, KeyError, TypeError):
        raise TombolaError(f"{folder / 'config.json'} names no architecture; save the model by save_pretrained") from None
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise TombolaError(
            f"{folder / 'config.json'} names the class {name!r}, which transformers lacks; install a newer one"
        )
    return kind
