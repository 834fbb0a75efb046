"""Tables that commands print: results, and the graph of stages."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from tombola.engine.store import Store
from tombola.study.plan import Plan
from tombola.study.stages import Stage, ancestors

if TYPE_CHECKING:
    from pandas import DataFrame


def results_table(records: "DataFrame", width: int) -> Table:
    """Mean and standard deviation over seeds of accuracy (or RMSE) by curve and weights left; as many levels as fit."""
    metric = "accuracy" if records["accuracy"].notna().any() else "rmse"
    columns = ["curve", *(c for c in ("model", "data", "variant") if records[c].nunique() > 1)]
    groups = {" · ".join(str(part) for part in name if part): rows for name, rows in records.groupby(columns, sort=False)}
    levels = sorted(records["level"].unique())
    fitting = max(2, (width - max(map(len, groups)) - 4) // len("| 0.123 ±0.123 "))
    if len(levels) > fitting:  # the first, the last, and evenly between
        levels = [levels[round(i * (len(levels) - 1) / (fitting - 1))] for i in range(fitting)]
    left = records.groupby("level")["density"].mean()
    table = Table(title=f"test {metric} over prunable weights left, mean ±sd over seeds", title_justify="left")
    table.add_column("curve", no_wrap=True)
    for level in levels:
        table.add_column(f"{100 * left[level]:.3g}%", justify="right", no_wrap=True)
    for name, rows in groups.items():
        cells = []
        for level in levels:
            values = rows.loc[rows["level"] == level, metric].dropna()
            spread = f" ±{values.std():.3f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.3f}{spread}" if len(values) else "-")
        table.add_row(Text(name), *cells)
    return table


def graph_table(plan: Plan, store: Store) -> Table:
    """The graph: for each curve and level what has to be done, with how many seeds have it."""
    table = Table(title=f"{plan.name}: stages, done of all seeds", title_justify="left")
    for column in ("curve", "level", "stages of a level, parents first"):
        table.add_column(column, no_wrap=column != "curve")
    chains: dict[tuple[str, int], list[list[Stage]]] = defaultdict(list)
    for row in plan.rows:
        name = " · ".join(part for part in (row.labels["curve"], row.labels["variant"]) if part)
        chains[name, row.labels["level"]].append(_new_stages(row.stage))
    lines = [
        (name, level, " → ".join(_done(alike, store) for alike in zip(*those, strict=True)))
        for (name, level), those in chains.items()
    ]
    lines += [(name, level, " → ".join(_done(alike, store) for alike in those)) for name, level, those in _of_views(plan)]
    for (name, what), alike in groupby(lines, key=lambda line: (line[0], line[2])):
        levels = [level for _, level, _ in alike]
        table.add_row(Text(name), f"{levels[0]}-{levels[-1]}" if len(levels) > 1 else str(levels[0]), Text(what))
    return table


def _of_views(plan: Plan) -> list[tuple[str, int, list[list[Stage]]]]:
    """Name, level and the stages, by kind, of each view: those that no row of the records needs."""
    known = {stage.key for stage in ancestors(*(row.stage for row in plan.rows))}
    found: dict[tuple[str, int], dict[str, dict[str, Stage]]] = {}
    for view in plan.views:
        what = f"{view.labels['view']} between {view.labels['between']}"
        name = " · ".join(part for part in (what, view.labels["variant"]) if part)
        kinds = found.setdefault((name, view.labels["level"]), {})
        for stage in (*view.stage.parents, view.stage):
            if stage.key not in known:
                kinds.setdefault(stage.kind, {})[stage.key] = stage
    return [(name, level, [list(those.values()) for those in kinds.values()]) for (name, level), kinds in found.items()]


def _done(stages: Sequence[Stage], store: Store) -> str:
    """The kind of these stages, and how many of them are done."""
    return f"{stages[0].kind} {sum(store.done(stage.key) for stage in stages)}/{len(stages)}"


def _new_stages(stage: Stage) -> list[Stage]:
    """The stages of one level: from the last pruning (or the start) to the evaluation."""
    chain = [stage]
    while chain[0].parents and chain[0].kind != "prune":
        chain.insert(0, chain[0].parents[0])
    return chain
