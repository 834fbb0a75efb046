"""Selection and grouping of a study's rows, for analyses."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from ..graph import Row
from ..stages import Stage


def own_masks(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of arms that prune; the other arms take a mask from one of these."""
    return [row for row in rows if row.labels["arm"] in ("ticket", "deterministic")]


def mask_of(row: Row) -> Stage:
    """Return the stage that made the row's mask; its file is smaller than the trained ticket's."""
    return row.trained.parents[0]


def grouped(rows: Iterable[Row], *names: str) -> list[list[Row]]:
    """Return groups of rows with equal labels `names`, in the order of the rows."""
    groups: defaultdict[tuple[Hashable, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row.labels[name] for name in names)].append(row)
    return list(groups.values())


def once(rows: Iterable[Row], stage: Callable[[Row], Stage]) -> list[Row]:
    """Return the first row of each of these stages, which two curves may share."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(stage(row).key, row)
    return list(found.values())


def ends_and_middle(levels: Sequence[int]) -> list[int]:
    """Return the first, the middle and the last of rising levels."""
    return sorted({levels[0], levels[len(levels) // 2], levels[-1]}) if levels else []
