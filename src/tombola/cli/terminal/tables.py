"""Tables that commands print: results, and the graph of stages."""

from collections import defaultdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from tombola.engine.store import Store
from tombola.study.plan import Plan
from tombola.study.stages import Stage, ancestors

if TYPE_CHECKING:
    from pandas import DataFrame


def results_table(records: "DataFrame", width: int) -> Table:
    """Return mean and deviation over seeds of accuracy (or RMSE) by curve and weights left, for the levels that fit."""
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
    """Return the graph: for each curve and level its stages, with the number of seeds that have them."""
    table = Table(title=f"{plan.name}: stages, done of all seeds", title_justify="left")
    for column in ("curve", "level", "stages of a level, parents first"):
        table.add_column(column, no_wrap=column != "curve")
    # (name, level) -> (place in the chain, kind) -> the stages' keys: one a seed
    groups: dict[tuple[str, int], dict[tuple[int, str], set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in plan.rows:
        for place, stage in enumerate(_new_stages(row.stage)):
            groups[_name(row.labels, row.labels["curve"]), row.labels["level"]][place, stage.kind].add(stage.key)
    known = {stage.key for stage in ancestors(*(row.stage for row in plan.rows))}
    for analysis in plan.analyses:  # only the stages that no row of the records needs
        name = _name(analysis.labels, f"{analysis.labels['view']} between {analysis.labels['between']}")
        for stage in (*analysis.stage.parents, analysis.stage):
            if stage.key not in known:
                groups[name, analysis.labels["level"]][0, stage.kind].add(stage.key)
    lines = [
        (name, level, " → ".join(f"{kind} {sum(map(store.done, keys))}/{len(keys)}" for (_, kind), keys in kinds.items()))
        for (name, level), kinds in groups.items()
    ]
    for (name, what), alike in groupby(lines, key=lambda line: (line[0], line[2])):
        levels = [level for _, level, _ in alike]
        table.add_row(Text(name), f"{levels[0]}-{levels[-1]}" if len(levels) > 1 else str(levels[0]), Text(what))
    return table


def _name(labels: dict[str, Any], what: str) -> str:
    return " · ".join(part for part in (what, labels["variant"]) if part)


def _new_stages(stage: Stage) -> list[Stage]:
    """Return the stages of one level: from the last pruning (or the start) to the evaluation."""
    chain = [stage]
    while chain[0].parents and chain[0].kind != "prune":
        chain.insert(0, chain[0].parents[0])
    return chain
