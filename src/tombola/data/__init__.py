"""Data sets by name: functions (**args) -> Dataset. An import path names a function of the user's own."""

from collections.abc import Callable, Mapping
from typing import Any

from tombola import plugins
from tombola.errors import TombolaError

from .dataset import Dataset, Split, split
from .diabetes import diabetes
from .digits import digits
from .folder import folder
from .huggingface import huggingface
from .left_out import leave_out
from .normalise import IMAGENET, Normalise
from .placement import training_batches
from .sharded import shards
from .signature import Signature
from .words import words

DATA: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "diabetes": diabetes,
    "words": words,
    "huggingface": huggingface,
    "folder": folder,
    "shards": shards,
}


def load_data(name: str, args: Mapping[str, Any]) -> Dataset:
    """Return the data set. Raises TombolaError for an unknown name or arguments that do not fit.

    args: those of the factory, and for any data set of classes `leave_out`, classes that are taken away.
    """
    args, classes = dict(args), args.get("leave_out")
    args.pop("leave_out", None)
    dataset = plugins.call(plugins.resolve(name, DATA, "data set"), {}, args, f"data {name}")
    if not isinstance(dataset, Dataset):
        raise TombolaError(f"data {name!r} returned {type(dataset).__name__}, not a tombola Dataset")
    return dataset if classes is None else leave_out(dataset, classes)


__all__ = [
    "DATA",
    "IMAGENET",
    "Dataset",
    "Normalise",
    "Signature",
    "Split",
    "diabetes",
    "digits",
    "folder",
    "huggingface",
    "leave_out",
    "load_data",
    "shards",
    "split",
    "training_batches",
    "words",
]
