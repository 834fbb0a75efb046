"""Data set whose training images stay in shards; a sample of them, and the held-out ones, are decoded to disk."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tombola import streams
from tombola.errors import TombolaError, is_out_of_memory

from .augment import Augment
from .batches import Prepare
from .cache import SPLITS, Decoded, cached, progress
from .dataset import Dataset
from .normalise import normalise_of
from .shards import (
    Decode,
    Example,
    ShardBatches,
    Shards,
    StreamedShards,
    TarShards,
    called,
    class_of,
    digest,
    image_decoder,
)
from .source import check_numbers, decoder_of

_SAMPLE, _FROM = 1024, 64  # training examples in memory, and the shards that they are of: shards may be sorted by class
_AT_ONCE = 256  # examples that workers decode together

Paths = str | Sequence[str]


@dataclass(frozen=True)
class ShardSource:
    """Training examples in shards, as `Dataset.streamed`."""

    shards: Shards
    decode: Decode
    examples: int
    buffer: int
    workers: int

    def batches(
        self, batch_size: int, seed: streams.Word, augment: Augment | None, prepare: Prepare | None, device: torch.device
    ) -> ShardBatches:
        """Return the examples in shuffled batches."""
        how: dict[str, Any] = {"examples": self.examples, "buffer": self.buffer, "workers": self.workers}
        return ShardBatches(
            self.shards, self.decode, batch_size, seed, augment=augment, prepare=prepare, device=device, **how
        )


@dataclass(frozen=True)
class _Found:
    """Parts of a data set in shards."""

    parts: dict[str, Shards]
    identity: list[Any]
    """JSON that changes with the examples, wherever they lie."""
    names: tuple[str, ...] = ()
    """Names of the classes, where the source has them."""


@dataclass(frozen=True)
class _Held:
    """Decoder of a sample of the training examples, and of all that are held out."""

    title: str
    found: _Found
    decode: Decode
    target: str
    size: int | None
    classes: int | None
    workers: int
    normalise: Any

    def decoded(self, space: Path) -> Decoded:
        """Return the examples. They are read twice, for their targets first."""
        labels = {part: [class_of(one, self.target) for one in self._read(part)] for part in SPLITS}
        targets = {part: torch.tensor(some, dtype=torch.int64) for part, some in labels.items()}
        highest = max(max(some, default=-1) for some in labels.values())
        names = self.found.names or tuple(map(str, range(self.classes or highest + 1)))
        if self.classes not in (None, len(names)):
            raise TombolaError(f"data {self.title!r}: classes is {self.classes}, but the source names {len(names)}; drop it")
        if highest >= len(names):
            raise TombolaError(f"data {self.title!r}: the label {highest} is not among {len(names)} classes; raise classes")
        inputs = self._inputs(sum(map(len, labels.values())))
        return Decoded(targets, inputs, self._finish, names, {"size": self.size})

    def _read(self, part: str) -> Iterator[Example]:
        if part not in self.found.parts:
            return iter(())
        source = self.found.parts[part]
        return _sample(source) if part == "train" else _all(source)

    def _inputs(self, total: int) -> Iterator[Tensor]:
        with progress(total, f"decoding {self.title}") as step, ThreadPoolExecutor(self.workers) as pool:
            left = chain.from_iterable(map(self._read, SPLITS))
            while some := list(islice(left, _AT_ONCE)):
                for pixels, _ in pool.map(self.decode, some):
                    yield pixels
                    step()

    def _finish(self, train: Tensor) -> tuple[str, Any]:
        return self.title, normalise_of(self.normalise, train, f"data {self.title!r}")


def shards(
    path: Paths,
    test: Paths,
    validation: Paths | None = None,
    train: str = "train",
    name: str | None = None,
    revision: str | None = None,
    examples: int | None = None,
    classes: int | None = None,
    image: str = "jpg;jpeg;png;webp;image",
    target: str = "cls;label",
    size: int | None = None,
    mode: str | None = "RGB",
    normalise: Any = "auto",
    buffer: int = 2048,
    workers: int = 2,
) -> Dataset:
    """Return images in shards: tar files of WebDataset (paths or a pattern of them), or a Hugging Face data set, streamed.

    path: tar files to train on, else a name on the hub or a folder of its layout; there train, test and validation are
    splits, and name and revision choose a configuration and a version. test, validation: tar files of held-out examples.
    examples: N, counted once where it is not known. classes: number of classes, where the held-out examples lack the last
    ones. image, target: suffixes or columns, the first that an example has. size, mode, normalise: as of `huggingface`.
    buffer: examples among which the order is random. workers: threads that decode.
    """
    tars = [path] if isinstance(path, str) else list(path)
    if not tars or not all(isinstance(one, str) and one for one in tars):
        raise TombolaError(f"data shards: path is {path!r}; give tar files, a pattern of them, or a data set's name")
    is_tar = all(one.endswith(".tar") for one in tars)
    title = Path(tars[0]).resolve().parent.name if is_tar else tars[0].rstrip("/").rpartition("/")[2]
    check_numbers(title, examples=examples, classes=classes, buffer=buffer, workers=workers)
    decoder_of(title, size, 1, mode)  # raises for values out of bounds
    wanted = {"train": path if is_tar else train, "test": test} | ({"validation": validation} if validation else {})
    found = _tar_files(wanted) if is_tar else _streamed(title, tars, name, revision, wanted)
    decode = image_decoder(size, image=image, target=target, mode=mode, name=title)
    arguments = [title, classes, image, target, size, mode, normalise]
    held = _Held(title, found, decode, target, size, classes, workers, normalise)
    stored = cached(["shards", found.identity, arguments], held.decoded)
    checked = partial(_checked, decode, len(stored.classes), title)
    of = found.parts["train"]
    source = ShardSource(of, checked, of.examples() if examples is None else examples, buffer, workers)
    return replace(stored, digest=f"{stored.digest} {found.identity}", streamed=source)


def _tar_files(wanted: Mapping[str, Any]) -> _Found:
    parts = {part: TarShards(pattern) for part, pattern in wanted.items()}
    return _Found(dict(parts), [[part, *map(digest, tars.paths)] for part, tars in parts.items()])


def _streamed(title: str, paths: list[str], name: str | None, revision: str | None, wanted: Mapping[str, Any]) -> _Found:
    """Return splits of a folder, which is known by its files' bytes, or of the hub, by its commit."""
    import datasets

    (path,) = paths if len(paths) == 1 else ("",)
    here = Path(path).expanduser()
    try:
        if path and here.is_dir():
            path = str(here.absolute())
            files = sorted(file for file in here.rglob("*") if file.is_file() and not file.name.startswith("."))
            identity: list[Any] = [[str(file.relative_to(here)), digest(str(file))] for file in files]
        else:
            from huggingface_hub import dataset_info

            identity = [path, name, dataset_info(path, revision=revision).sha]
        splits = {part: datasets.load_dataset(path, name, split=split, streaming=True, revision=revision)
                  for part, split in wanted.items()}  # fmt: skip
    except Exception as error:
        if is_out_of_memory(error):
            raise
        why = " ".join(str(error).split())[:200]
        raise TombolaError(
            f"data {title!r}: {paths} are no tar files, no folder, and can't be had from the Hugging Face hub "
            f"({type(error).__name__}: {why}); check args.path, and that test and validation are splits there"
        ) from error
    labels = [f for f in (splits["train"].features or {}).values() if isinstance(f, datasets.ClassLabel)]
    names = tuple(labels[0].names) if len(labels) == 1 else ()
    parts: dict[str, Shards] = {part: StreamedShards(split) for part, split in splits.items()}
    return _Found(parts, [*identity, sorted(wanted.items())], names)


def _all(source: Shards) -> Iterator[Example]:
    for shard in range(source.count):
        yield from source.read(shard)


def _sample(source: Shards) -> Iterator[Example]:
    """Yield the first examples of shards that are spread over all."""
    chosen = range(0, source.count, max(1, source.count // _FROM))[:_FROM]
    for shard in chosen:
        yield from islice(source.read(shard), -(-_SAMPLE // len(chosen)))


def _checked(decode: Decode, classes: int, title: str, example: Example) -> tuple[Tensor, Any]:
    pixels, label = decode(example)
    if not 0 <= label < classes:
        raise TombolaError(
            f"data {title!r}: {called(example)} has the label {label}, but there are {classes} classes, as many as the "
            "held-out examples have; give their number as args.classes"
        )
    return pixels, label
