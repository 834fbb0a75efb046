"""Files that outlive a sprint: records, masks, recipes, a log; at most eight of 16 MiB.

Legend: P parameters of a network, L levels of a chain.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.sprint.memory import Mask, MemoryStore
from tombola.files import written_aside
from tombola.study.plan import Plan
from tombola.study.stages import Init, Prune, Stage, Train

STAGES, MASKS, LOG = "stages.json.gz", "masks-{}.npz", "log.txt"
_LARGEST = 15 << 20  # bytes of a file of masks
_MASK_FILES = 3

Chain = tuple[Any, Any]
"""Arrays of bytes: JSON of the keys and infos of its prunings, and the compressed levels of its weights' ends."""
_PACKED: dict[tuple[str, ...], Chain] = {}
"""Chains that were compressed before: a sprint saves every minute."""


def write(store: MemoryStore, plan: Plan, out: Path) -> None:
    """Write all finished stages' records, and the masks of chains. Older masks are left out where they are too many."""
    records = {key: store.record(key) for key in sorted(path.parent.name for path in store.root.glob("*/record.json"))}
    with written_aside(out / STAGES) as aside:
        aside.write_bytes(gzip.compress(json.dumps(records).encode(), 5))
    for number, part in enumerate(_parts([packed(path, store.masks) for path in tips(plan, store.masks)])):
        with written_aside(out / MASKS.format(number)) as aside, aside.open("wb") as file:
            np.savez(file, **part)


def read(store: MemoryStore, folders: Sequence[Path]) -> None:
    """Put the records and masks of earlier sprints into a store; the first folder that has a stage counts."""
    for folder in folders:
        for path in sorted(folder.rglob(STAGES)):
            for key, record in json.loads(gzip.decompress(path.read_bytes())).items():
                place = store.root / key / "record.json"
                if not place.exists():
                    place.parent.mkdir(parents=True)
                    place.write_text(json.dumps(record))
        for path in sorted(folder.rglob(MASKS.format("*"))):
            for key, mask in unpacked(path):
                store.masks.setdefault(key, mask)


def tips(plan: Plan, masks: dict[str, Mask]) -> Iterator[list[Stage]]:
    """Yield each chain of prunings with masks, from its first level to its last one with a mask."""
    paths: dict[str, list[Stage]] = {}
    for stage in plan.stages:  # parents first
        if isinstance(stage, Prune) and stage.key in masks:
            before = stage.parents[0].parents[0]
            paths[stage.key] = [*paths.pop(before.key, _known(before, masks)), stage]
    yield from paths.values()


def _known(stage: Stage, masks: dict[str, Mask]) -> list[Stage]:
    """Return `stage` and the prunings before it, for a chain that forks at it."""
    if isinstance(stage, Init) or stage.key not in masks:
        return []
    (trained, *_) = stage.parents
    assert isinstance(trained, Train)
    return [*_known(trained.parents[0], masks), stage]


def packed(path: Sequence[Stage], masks: dict[str, Mask]) -> Chain:
    """Return a chain as one byte a weight, compressed: the number of its (nested) levels that the weight survives."""
    keys = tuple(stage.key for stage in path)
    if keys not in _PACKED:
        own = [masks[key] for key in keys]
        survived = torch.stack([mask for mask, _ in own]).sum(0, dtype=torch.uint8)
        about = json.dumps({"keys": keys, "infos": [info for _, info in own]}).encode()
        _PACKED[keys] = np.frombuffer(about, np.uint8), np.frombuffer(zlib.compress(survived.numpy().tobytes(), 1), np.uint8)
    return _PACKED[keys]


def unpacked(path: Path) -> Iterator[tuple[str, Mask]]:
    """Yield (key, mask) of a file of chains."""
    with np.load(path) as found:
        for number in range(len(found.files) // 2):
            chain = json.loads(found[f"about{number}"].tobytes())
            survived: Tensor = torch.frombuffer(
                bytearray(zlib.decompress(found[f"survived{number}"].tobytes())), dtype=torch.uint8
            )
            for level, (key, info) in enumerate(zip(chain["keys"], chain["infos"], strict=True)):
                yield key, (survived > level, info)


def _parts(chains: Sequence[Chain]) -> Iterator[dict[str, Any]]:
    """Yield the arrays of files of chains, each below the largest size; the newest chains where not all fit."""
    files: list[list[Chain]] = [[]]
    for chain in reversed(chains):
        if files[-1] and sum(part.nbytes for own in [*files[-1], chain] for part in own) > _LARGEST:
            if len(files) == _MASK_FILES:
                break
            files.append([])
        files[-1].append(chain)
    for own in files:
        if own:
            named = [(f"about{i}", about) for i, (about, _) in enumerate(own)]
            yield dict([*named, *((f"survived{i}", bytes_) for i, (_, bytes_) in enumerate(own))])
