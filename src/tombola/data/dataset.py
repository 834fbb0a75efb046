"""Data as tensors, split into train, validation and test.

Legend: N examples.
"""

import ctypes
import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .. import streams
from ..errors import TombolaError

Split = tuple[Tensor, Tensor]
"""(inputs [N, ...], targets [N] of class indices or [N, ...] of reals)."""


@dataclass(frozen=True)
class Dataset:
    """Three splits on one device."""

    name: str
    train: Split
    validation: Split
    test: Split

    def __post_init__(self) -> None:
        for split, (inputs, targets) in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            if len(inputs) != len(targets):
                raise TombolaError(f"data {self.name!r}: {split} has {len(inputs)} inputs for {len(targets)} targets")
        if not len(self.train[0]) or not len(self.test[0]):
            raise TombolaError(f"data {self.name!r}: the train or the test split is empty")
        if not bool(self.train[0].isfinite().all()):
            raise TombolaError(f"data {self.name!r}: train inputs are not finite; clean them first")

    @property
    def is_classification(self) -> bool:
        return not self.train[1].is_floating_point()

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train[0].shape[1:])

    @property
    def outputs(self) -> int:
        """Classes, or the dimension of the target."""
        if self.is_classification:
            return int(max(int(t.max()) for _, t in (self.train, self.test))) + 1
        return self.train[1][0].numel()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every number in it; part of the keys of the stages that use it."""
        total = hashlib.sha256()
        for tensor in (*self.train, *self.validation, *self.test):
            value = tensor.cpu().contiguous()
            total.update(f"{value.dtype} {tuple(value.shape)}".encode())
            total.update(ctypes.string_at(value.data_ptr(), value.numel() * value.element_size()) if value.numel() else b"")
        return total.hexdigest()[:16]

    def to(self, device: torch.device | str) -> "Dataset":
        def moved(split: Split) -> Split:
            return split[0].to(device), split[1].to(device)

        return replace(self, train=moved(self.train), validation=moved(self.validation), test=moved(self.test))


def split(name: str, inputs: Tensor, targets: Tensor, *, validation: int, test: int) -> Dataset:
    """Random splits of the given sizes, the rest for training; the same for every seed: only `name` draws them."""
    if validation + test >= len(inputs):
        raise TombolaError(f"data {name!r}: {validation} + {test} held-out examples leave nothing of {len(inputs)}")
    order = torch.randperm(len(inputs), generator=streams.generator("split", name))
    tested, validated, trained = order.split([test, validation, len(inputs) - test - validation])
    return Dataset(name, *((inputs[rows], targets[rows]) for rows in (trained, validated, tested)))
