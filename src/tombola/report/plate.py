"""A numbered figure of a page: drawings with their caption."""

from dataclasses import dataclass, field

from .figures import Drawing
from .tables import Table


@dataclass(frozen=True, kw_only=True)
class Plate:
    """One numbered figure: drawings by name, and their caption."""

    title: str = ""
    drawings: dict[str, Drawing]
    caption: str
    metric: str = ""
    """Column that the figure's link shows in the interactive chart; empty: no link."""
    notes: dict[str, str] = field(default_factory=dict)
    """Words behind the names in the legend."""
    heading: str = ""
    """Words above these."""
    table: Table | None = None
    """Table beside the drawings."""
