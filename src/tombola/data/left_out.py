"""Classes that a data set goes without, so that a network meets them first when it is measured."""

from collections.abc import Sequence
from typing import Any

import torch

from tombola.errors import TombolaError

from .dataset import Dataset, Split


def leave_out(data: Dataset, classes: Any) -> Dataset:
    """Return the data set without these classes, the others numbered anew in their order.

    Test inputs of the classes are its `outside`. classes: distinct class numbers, of which two at least must be left.
    Raises TombolaError for anything else, and for data of a regression.
    """
    _check(data, classes)
    number = torch.full((data.outputs,), -1)
    kept = [label for label in range(data.outputs) if label not in classes]
    number[kept] = torch.arange(len(kept))

    def without(split: Split) -> Split:
        inputs, targets = split
        rows = (number[targets] >= 0).nonzero()[:, 0]
        return inputs[rows], number[targets[rows]]

    inputs, targets = data.test
    outside = inputs[(number[targets] < 0).nonzero()[:, 0]]
    name = f"{data.name} without {', '.join(map(str, sorted(classes)))}"
    parts = without(data.train), without(data.validation), without(data.test)
    return Dataset(name, *parts, data.normalise, outside=outside)


def _check(data: Dataset, classes: Any) -> None:
    if data.streamed is not None:
        raise TombolaError(f"data {data.name!r}: leave_out is {classes!r}, but it is read in parts; leave it away")
    if not data.is_classification:
        raise TombolaError(f"data {data.name!r}: leave_out is {classes!r}, but the targets are real numbers; leave it away")
    numbers = classes if isinstance(classes, Sequence) and not isinstance(classes, str) else []
    whole = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < data.outputs for n in numbers)
    if not numbers or not whole or len(set(numbers)) < len(numbers) or data.outputs - len(numbers) < 2:
        raise TombolaError(
            f"data {data.name!r}: leave_out is {classes!r}; give different classes of 0 to {data.outputs - 1}, two of them "
            "not"
        )
