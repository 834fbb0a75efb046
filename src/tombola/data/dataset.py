"""Data as tensors, split into train, validation and test.

Legend: N examples.
"""

import ctypes
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from tombola import streams
from tombola.errors import TombolaError

from .normalise import Normalise
from .signature import Signature

if TYPE_CHECKING:
    from .augment import Augment
    from .batches import Batches, Prepare

Split = tuple[Tensor, Tensor]
"""Pair (inputs [N, ...], targets [N] of class indices or [N, ...] of reals)."""

_CHUNK = 1 << 24  # bytes looked at together: a memory map need not fit in memory


class Streamed(Protocol):
    """Training examples that are never in memory together."""

    @property
    def examples(self) -> int:
        """Return their number."""
        ...

    def batches(
        self,
        batch_size: int,
        seed: streams.Word,
        augment: "Augment | None",
        prepare: "Prepare | None",
        device: torch.device,
    ) -> "Batches":
        """Return them in shuffled batches, augmented, then prepared, on the device."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Three splits on one device, or mapped into memory from a file."""

    name: str
    """Name of the data in tables."""
    train: Split
    validation: Split
    test: Split
    normalise: Normalise | None = None
    """Function from stored inputs (uint8 pixels) to the network's; None if they are stored as the network takes them."""
    digest: str = ""
    """Result of `digest_of` the three splits, if it is known already."""
    classes: tuple[str, ...] = ()
    """Names of the classes by number; without them a class is called by its number."""
    decoding: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the signature that say how examples were read: columns, size, pool, unit."""
    outside: Tensor | None = None
    """Stored test inputs [M, ...] of classes that were left out, as `leave_out` leaves them."""
    streamed: Streamed | None = None
    """Training examples of which `train` is a sample; None where `train` has all."""

    def __post_init__(self) -> None:
        for split, (inputs, targets) in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            if len(inputs) != len(targets):
                raise TombolaError(f"data {self.name!r}: {split} has {len(inputs)} inputs for {len(targets)} targets")
            if len(inputs) and inputs.shape[1:] != self.train[0].shape[1:]:
                shapes = f"{list(inputs.shape[1:])}, of train {list(self.train[0].shape[1:])}"
                raise TombolaError(f"data {self.name!r}: inputs of {split} have shape {shapes}; give all the same")
            if len(targets) and not targets.is_floating_point() and int(targets.min()) < 0:
                raise TombolaError(f"data {self.name!r}: {split} has the label {int(targets.min())}; classes count from 0")
        if not len(self.train[0]) or not len(self.test[0]):
            raise TombolaError(f"data {self.name!r}: the train or the test split is empty")
        object.__setattr__(self, "classes", tuple(self.classes))
        self._form(self.classes)  # what a ticket could not keep is said here, and not once it is trained
        looked_at = self.digest or not self.train[0].is_floating_point()
        if not looked_at and not all(bool(part.isfinite().all()) for part in _chunks(self.train[0])):
            raise TombolaError(f"data {self.name!r}: train inputs are not finite; clean them first")

    @property
    def examples(self) -> int:
        """Number N of training examples."""
        return len(self.train[0]) if self.streamed is None else self.streamed.examples

    @property
    def is_classification(self) -> bool:
        return not self.train[1].is_floating_point()

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train[0].shape[1:])

    @property
    def outputs(self) -> int:
        """Number of classes, or dimension of the target."""
        if self.streamed is not None:
            return len(self.classes)  # a sample may lack some
        if self.is_classification:
            return int(max(int(t.max()) for _, t in (self.train, self.test))) + 1
        return self.train[1][0].numel()

    @property
    def signature(self) -> Signature:
        """Form of the inputs and names of the classes, by which a ticket predicts new examples without this data."""
        return self._form((self.classes or tuple(map(str, range(self.outputs)))) if self.is_classification else ())

    def _form(self, names: tuple[str, ...]) -> Signature:
        try:
            dtype = str(self.train[0].dtype).removeprefix("torch.")
            return Signature(self.input_shape, dtype, names, self.normalise, **self.decoding)
        except TombolaError as error:
            raise TombolaError(f"data {self.name!r}: {error}") from None

    def held_out(self, which: str) -> Split:
        """Return the split `test` or `validation`. Raises TombolaError if no validation examples are held out."""
        found = self.test if which == "test" else self.validation
        if not len(found[0]):
            raise TombolaError(
                f"evaluate.split is {which}, but data {self.name!r} holds no examples out for it; set data.args.validation"
            )
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of all stored inputs."""
        return sum(inputs.numel() * inputs.element_size() for inputs, _ in (self.train, self.validation, self.test))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every number in it and of the normalisation; part of the keys of the stages that use it."""
        digest = self.digest or digest_of(self.train, self.validation, self.test)
        if self.outside is not None:
            digest = hashlib.sha256(f"{digest} {digest_of((self.outside, self.outside[:0]))}".encode()).hexdigest()
        if self.normalise is not None:
            digest = hashlib.sha256(f"{digest} {self.normalise}".encode()).hexdigest()
        return digest[:16]

    def prepare(self, inputs: Tensor) -> Tensor:
        """Return the network's inputs from stored ones [B, ...]: normalised floats."""
        return inputs if self.normalise is None else self.normalise(inputs)

    def on(self, device: torch.device) -> "Dataset":
        """Return the data set on a device. It is copied once: many trainings and evaluations read it."""
        placed: dict[torch.device, Dataset] = self.__dict__.setdefault("_on", {})
        if device not in placed:
            placed[device] = self if device.type == "cpu" else self.to(device)
        return placed[device]

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the data with all splits on the device."""

        def moved(split: Split) -> Split:
            return split[0].to(device), split[1].to(device)

        return replace(self, train=moved(self.train), validation=moved(self.validation), test=moved(self.test))


def digest_of(*splits: Split) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of the tensors' dtypes, shapes and bytes, read piece by piece."""
    total = hashlib.sha256()
    for tensor in (t for split in splits for t in split):
        total.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        for part in _chunks(tensor):
            value = part.cpu().contiguous()
            total.update(ctypes.string_at(value.data_ptr(), value.numel() * value.element_size()))
    return total.hexdigest()


def _chunks(tensor: Tensor) -> tuple[Tensor, ...]:
    if not tensor.numel():
        return ()
    return tensor.split(max(1, _CHUNK // (tensor[0].numel() * tensor.element_size())))


def split(name: str, inputs: Tensor, targets: Tensor, *, validation: int, test: int) -> Dataset:
    """Split at random into parts of the given sizes and the rest for training; drawn by `name` alone, whatever the seed."""
    if not all(isinstance(size, int) and size >= 0 for size in (validation, test)):
        raise TombolaError(f"data {name!r}: validation is {validation!r}, test {test!r}; both are numbers of examples")
    if validation + test >= len(inputs):
        raise TombolaError(f"data {name!r}: {validation} + {test} held-out examples leave nothing of {len(inputs)}")
    order = torch.randperm(len(inputs), generator=streams.generator("split", name))
    tested, validated, trained = order.split([test, validation, len(inputs) - test - validation])
    parts = [(inputs[rows], targets[rows]) for rows in (trained, validated, tested)]
    return Dataset(name, parts[0], parts[1], parts[2])
