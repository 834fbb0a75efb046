"""Views of tickets: what is computed of finished tickets, or of their trainings repeated, beyond the metrics of a record.

A view is a function from the rows of one model, one data set and one variant to stages over their tickets (`rows.View`).
"""

from collections.abc import Iterable

from tombola import plugins
from tombola.errors import TombolaError

from ..rows import Row, View, ViewRow
from .connectivity import Connectivity, connectivity
from .early_bird import EarlyBird, early_bird
from .overlap import Overlap, overlap
from .ranks import Ranks, ranks

VIEWS: dict[str, View] = {
    "overlap": overlap,
    "ranks": ranks,
    "connectivity": connectivity,
    "early_bird": early_bird,
}


def view_rows(names: Iterable[str], rows: Iterable[Row]) -> list[ViewRow]:
    """What these views have to compute. Raises TombolaError for an unknown view, and for one that finds nothing to do."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.labels["model"], row.labels["data"], row.labels["variant"]), []).append(row)
    found: list[ViewRow] = []
    for name in dict.fromkeys(names):
        view: View = plugins.resolve(name, VIEWS, "view")
        own = [row for group in groups.values() for row in view(group)]
        if not own:
            raise TombolaError(
                f"view {name!r} has nothing to look at in this study; docs/analyses.md says what it needs: add that, or leave "
                "the view out"
            )
        found += own
    return found


__all__ = ["VIEWS", "Connectivity", "EarlyBird", "Overlap", "Ranks", "view_rows"]
