"""Analyses of finished tickets, or of their trainings repeated, beyond the metrics of a record.

An analysis is a function from the rows of one model, one data set and one variant to stages over their tickets
(`graph.Analysis`).
"""

from collections.abc import Iterable

from tombola import plugins
from tombola.errors import TombolaError

from ..graph import Analysis, AnalysisRow, Row
from ..messages import in_short
from .connectivity import connectivity
from .early_bird import early_bird
from .overlap import overlap
from .ranks import ranks

ANALYSES: dict[str, Analysis] = {
    "overlap": overlap,
    "ranks": ranks,
    "connectivity": connectivity,
    "early_bird": early_bird,
}


def analysis_rows(names: Iterable[str], rows: Iterable[Row]) -> list[AnalysisRow]:
    """Return the rows of these analyses. Raises TombolaError for an unknown one, and for one that finds nothing to do."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.labels["model"], row.labels["data"], row.labels["variant"]), []).append(row)
    found: list[AnalysisRow] = []
    for name in dict.fromkeys(names):
        analysis: Analysis = plugins.resolve(name, ANALYSES, "analysis")
        try:
            own = [row for group in groups.values() for row in analysis(group)]
        except TombolaError:
            raise
        except (Exception, SystemExit) as error:  # of a function of the user, or one that is no analysis at all
            raise TombolaError(f"analysis {name!r} failed: {in_short(repr(error), 120)}; see docs/analyses.md") from error
        if not own:
            raise TombolaError(
                f"analysis {name!r} has nothing to look at in this study; docs/analyses.md says what it needs: add that, or "
                "leave the analysis out"
            )
        found += own
    return found


__all__ = ["ANALYSES", "analysis_rows"]
