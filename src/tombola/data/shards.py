"""Batches from shards that are read one after another: tar files of WebDataset, or a stream of Hugging Face's datasets.

What is in memory does not grow with the data: a buffer of examples as they were read, undecoded, and a few batches. Order is
a function of seed and epoch: the shards are shuffled, and the buffer gives one of its examples at random for each that it
takes. The number of workers changes nothing in it.

Legend: N examples, B examples of a batch.
"""

import hashlib
import json
import os
import re
import tarfile
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tombola import streams
from tombola.errors import TombolaError
from tombola.files import written_aside
from tombola.posterior.batch import Batch

from .augment import Augment
from .batches import Prepare, steps_per_epoch
from .cache import identity_of, root
from .images import Decoder

Example = Mapping[str, Any]
"""Undecoded example of a shard: its parts by suffix of its files, or by column."""
Decode = Callable[[Example], tuple[Tensor, Any]]
"""Function from an example to its input and its target (a class, or a tensor); called from several threads."""

_ABOUT = r"__[^/]*__($|/)"  # names of files about a shard, which the package passes over
_AHEAD = 2  # batches for each worker that are decoded before they are asked for


class Shards(Protocol):
    """Source of examples in parts, each of which is read from its beginning."""

    @property
    def count(self) -> int:
        """Return the number of shards."""
        ...

    def read(self, shard: int) -> Iterator[Example]:
        """Yield the examples of a shard, in the same order each time."""
        ...

    def examples(self) -> int:
        """Return the number of all examples."""
        ...


class TarShards:
    """Tar files as WebDataset has them: files of one example have one name and differ in their suffixes."""

    def __init__(self, pattern: str | Sequence[str]):
        """Take paths, or a pattern of them (`train-*.tar`). Raises TombolaError where there is none."""
        given = [pattern] if isinstance(pattern, str) else list(pattern)
        found = {one: glob(one) for one in given}
        absent = [one for one, paths in found.items() if not paths]
        if absent or not found:
            raise TombolaError(f"there are no shards {', '.join(absent) or given} (seen from {Path.cwd()}); give tar files")
        self.paths = sorted({os.path.abspath(path) for paths in found.values() for path in paths})

    @property
    def count(self) -> int:
        return len(self.paths)

    def read(self, shard: int) -> Iterator[Example]:
        try:
            from webdataset.tariterators import group_by_keys, tar_file_expander
        except ImportError:
            raise TombolaError("tar shards need the package webdataset: pip install 'tombola[shards]'") from None
        # its pipeline would leave files open, and share shards out to processes: the training loop shares out batches
        with open(self.paths[shard], "rb") as file:
            examples = group_by_keys(tar_file_expander([{"url": self.paths[shard], "stream": file}]))
            while (example := _next(examples, self.paths[shard])) is not None:
                yield example

    def examples(self) -> int:
        """Return the number of examples, from the heads of the files."""
        return sum(int(once(path, "count", _counted)) for path in self.paths)


def _next(examples: Iterator[Example], path: str) -> Example | None:
    try:
        return next(examples, None)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise TombolaError(
            f"{path} can't be read as a tar file ({' '.join(str(error).split())[:120]}); write it anew"
        ) from None


def digest(path: str) -> str:
    """Return the SHA-256 of a file's bytes."""
    return once(path, "sha256", _hashed)


def once(path: str, what: str, find: Callable[[str], str]) -> str:
    """Return a fact about a file; it is kept in $TOMBOLA_CACHE by the file's path, size and time."""
    identity = hashlib.sha256(json.dumps(identity_of(Path(path))).encode()).hexdigest()[:24]
    kept = root() / f"{identity}.{what}"
    if kept.is_file():
        return kept.read_text()
    found = find(path)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(kept) as aside:
        aside.write_text(found)
    return found


def _counted(path: str) -> str:
    try:
        with tarfile.open(path) as tar:
            names = {m.name for m in tar if m.isfile() and not re.match(_ABOUT, m.name)}
    except (tarfile.TarError, OSError) as error:
        raise TombolaError(f"{path} can't be read as a tar file ({error}); write it anew") from None
    return str(len({f"{Path(name).parent}/{Path(name).name.partition('.')[0]}" for name in names}))


def _hashed(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class StreamedShards:
    """A `datasets.IterableDataset`, as `load_dataset(..., streaming=True)` returns it, in its own shards."""

    def __init__(self, dataset: Any):
        """Take the data set; its pictures stay encoded until a batch is made of them."""
        from datasets import Image

        for column, feature in (dataset.features or {}).items():
            if isinstance(feature, Image):
                dataset = dataset.cast_column(column, Image(mode=feature.mode, decode=False))
        self.dataset, self.count = dataset, int(dataset.num_shards)

    def read(self, shard: int) -> Iterator[Example]:
        yield from self.dataset.shard(num_shards=self.count, index=shard)

    def examples(self) -> int:
        """Return the number that the data set's description has; without one all is read once."""
        known = (self.dataset.info.splits or {}).get(self.dataset.split)
        return known.num_examples if known and known.num_examples else sum(1 for _ in self.dataset)


def image_decoder(
    size: int | None,
    *,
    image: str = "jpg;jpeg;png;webp;image",
    target: str = "cls;label",
    mode: str | None = "RGB",
    name: str = "shards",
) -> Decode:
    """Return a decoder of images [C, size, size], uint8, and classes.

    image, target: suffixes or columns, the first that an example has. An image is resized so that its shorter side is
    `size`, and its middle is taken; None: all have one size. It is bytes, a mapping with `bytes`, or a picture of Pillow's.
    """
    decoder = Decoder(name, mode, size)

    def decode(example: Example) -> tuple[Tensor, int]:
        pixels, label = part_of(example, image), class_of(example, target)
        pixels = pixels["bytes"] if isinstance(pixels, Mapping) else pixels
        return decoder(called(example), _encoded(pixels)), label

    return decode


def called(example: Example) -> str:
    """Return an example's name, for errors."""
    return str(example.get("__key__", "an example"))


def part_of(example: Example, names: str) -> Any:
    """Return the first of these parts (`cls;label`) that an example has. Raises TombolaError for none."""
    for name in names.split(";"):
        if name in example:
            return example[name]
    raise TombolaError(f"{called(example)} has none of {names}, but {', '.join(example)}; say which parts to take")


def class_of(example: Example, names: str) -> int:
    """Return an example's class, a number from 0. Raises TombolaError for a word, a fraction or less than 0."""
    found = part_of(example, names)
    try:
        number = int(found)
    except (TypeError, ValueError):
        number = -1
    if number < 0 or (not isinstance(found, bytes | str) and number != found):
        raise TombolaError(f"{called(example)} has the class {found!r}; classes are numbers from 0: write them so")
    return number


def _encoded(picture: Any) -> bytes:
    if isinstance(picture, bytes):
        return picture
    import io

    picture.save(found := io.BytesIO(), "PNG")
    return found.getvalue()


class ShardBatches:
    """Shuffled batches from shards, decoded by threads ahead of the training, the same at every call for an epoch.

    A training that resumes in the middle of an epoch reads what came before again, without decoding it.
    """

    def __init__(
        self,
        shards: Shards,
        decode: Decode,
        batch_size: int,
        seed: streams.Word,
        *,
        examples: int | None = None,
        buffer: int = 2048,
        workers: int = 2,
        augment: Augment | None = None,
        prepare: Prepare | None = None,
        device: torch.device | str = "cpu",
    ):
        """Take the shards. examples: N; by default counted once. buffer: examples among which order is random.

        augment, prepare: applied on the device, as of `TensorBatches`. Raises TombolaError for numbers below 1.
        """
        for name, value in (("batch_size", batch_size), ("buffer", buffer), ("workers", workers)):
            if value < 1:
                raise TombolaError(f"{name} is {value}; it must be at least 1")
        self._shards, self._decode, self.batch_size, self.seed = shards, decode, batch_size, seed
        self._buffer, self._workers, self._augment, self._prepare = buffer, workers, augment, prepare
        self.device = torch.device(device)
        self.examples = shards.examples() if examples is None else examples
        if self.examples < 1:
            raise TombolaError("the shards have no examples; give others")
        self.steps = steps_per_epoch(self.examples, batch_size)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the batches of that epoch from the `skip`-th on. Raises TombolaError if the shards have not N examples."""
        draw = None if self._augment is None else self._augment(self.examples, self.seed, epoch, self.device)
        given = self._order(epoch)
        start = skip * self.batch_size
        for _ in islice(given, start):
            pass
        waiting: deque[list[Future[tuple[Tensor, Any]]]] = deque()
        with ThreadPoolExecutor(self._workers, "decode") as pool:
            try:
                for step in range(skip, self.steps):
                    size = self.batch_size if step < self.steps - 1 else self.examples - step * self.batch_size
                    some = list(islice(given, size))
                    if len(some) < size:
                        raise self._miscounted(epoch)
                    waiting.append([pool.submit(self._decode, example) for example in some])
                    if len(waiting) > _AHEAD * self._workers:
                        start = yield from self._ready(waiting.popleft(), start, draw)
                while waiting:
                    start = yield from self._ready(waiting.popleft(), start, draw)
            finally:  # the training has stopped in the middle of the epoch
                for future in (one for batch in waiting for one in batch):
                    future.cancel()
        if next(given, None) is not None:
            raise self._miscounted(epoch)

    def _ready(self, decoded: list[Future[tuple[Tensor, Any]]], start: int, draw: Any) -> Generator[Batch, None, int]:
        """Yield the batch of these examples; return the place in the epoch after it."""
        found = [future.result() for future in decoded]
        inputs = torch.stack([one for one, _ in found]).to(self.device)
        targets = torch.stack([torch.as_tensor(target) for _, target in found]).to(self.device)
        stop = start + len(found)
        if draw is not None:
            inputs = draw(inputs, torch.arange(start, stop, device=self.device))
        yield (inputs if self._prepare is None else self._prepare(inputs)), targets
        return stop

    def _order(self, epoch: int) -> Iterator[Example]:
        """Yield the examples of an epoch, undecoded."""
        generator = streams.generator("order", self.seed, epoch)
        held: list[Example] = []
        for shard in torch.randperm(self._shards.count, generator=generator).tolist():
            for example in self._shards.read(shard):
                if len(held) < self._buffer:
                    held.append(example)
                    continue
                at = int(torch.randint(self._buffer, (), generator=generator))
                held[at], example = example, held[at]
                yield example
        for at in torch.randperm(len(held), generator=generator).tolist():
            yield held[at]

    def _miscounted(self, epoch: int) -> TombolaError:
        return TombolaError(
            f"the shards have not {self.examples} examples in epoch {epoch + 1}; give their number as `examples`, or none "
            "to have them counted"
        )
