"""Finding one's way in the rows of a study."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from ..rows import Row
from ..stages import Stage, Train

OWN_MASK = ("ticket", "deterministic")
"""The arms that prune; the others take a mask from one of them."""


def own_masks(rows: Iterable[Row]) -> list[Row]:
    """The rows of arms that found their mask themselves."""
    return [row for row in rows if row.labels["arm"] in OWN_MASK]


def training_of(row: Row) -> Train:
    """The stage that trained the row's ticket."""
    (trained,) = row.stage.parents
    assert isinstance(trained, Train)
    return trained


def mask_of(row: Row) -> Stage:
    """The stage that made the row's mask, whose ticket is smaller than the trained one."""
    return training_of(row).parents[0]


def grouped(rows: Iterable[Row], *names: str) -> list[list[Row]]:
    """Rows that are alike in these labels, in the order of the rows."""
    groups: defaultdict[tuple[Hashable, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row.labels[name] for name in names)].append(row)
    return list(groups.values())


def once(rows: Iterable[Row], stage: Callable[[Row], Stage]) -> list[Row]:
    """The first row of each of these stages: two curves may share one."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(stage(row).key, row)
    return list(found.values())


def ends_and_middle(levels: Sequence[int]) -> list[int]:
    """The first, the middle and the last of rising levels."""
    return sorted({levels[0], levels[len(levels) // 2], levels[-1]}) if levels else []
