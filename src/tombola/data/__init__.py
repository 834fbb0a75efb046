"""Data sets by name: functions (**args) -> Dataset. An import path names a function of the user's own."""

from collections.abc import Callable, Mapping
from typing import Any

from tombola import plugins
from tombola.errors import TombolaError

from .dataset import Dataset, Split, split
from .digits import digits
from .folder import folder
from .huggingface import huggingface
from .normalise import IMAGENET, Normalise
from .placement import training_batches

DATA: dict[str, Callable[..., Dataset]] = {"digits": digits, "huggingface": huggingface, "folder": folder}


def load_data(name: str, args: Mapping[str, Any]) -> Dataset:
    """Return the data set. Raises TombolaError for an unknown name or arguments that do not fit."""
    dataset = plugins.call(plugins.resolve(name, DATA, "data set"), {}, args, f"data {name}")
    if not isinstance(dataset, Dataset):
        raise TombolaError(f"data {name!r} returned {type(dataset).__name__}, not a tombola Dataset")
    return dataset


__all__ = [
    "DATA",
    "IMAGENET",
    "Dataset",
    "Normalise",
    "Split",
    "digits",
    "folder",
    "huggingface",
    "load_data",
    "split",
    "training_batches",
]
