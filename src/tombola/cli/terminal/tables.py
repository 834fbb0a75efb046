"""Tables that commands print: results, and the graph of stages."""

import string
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import groupby, product
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tombola.engine.folder import StudyFolder
from tombola.engine.store import Store
from tombola.metrics import records
from tombola.metrics.column import left
from tombola.study.graph import Graph, Node, ancestors

if TYPE_CHECKING:
    from pandas import DataFrame

_LABEL = 16  # columns that a label may fold into, if the numbers need the others
_LONG = 24  # letters of a variant that a legend below the table spells out


def results_table(records: "DataFrame", width: int) -> RenderableType:
    """Return mean and deviation over seeds of accuracy (or RMSE) by curve and weights left, for the levels that fit.

    Labels fold and long variants move into a legend, so that no number is ever cut, from 40 columns on.
    """
    metric = "accuracy" if records["accuracy"].notna().any() else "rmse"
    letters = lettered(records["variant"].dropna().unique())
    records = records.assign(variant=[letters.get(variant, "") for variant in records["variant"]])
    columns = ["curve", *(c for c in ("model", "data", "variant") if records[c].nunique() > 1)]
    groups = {" · ".join(str(part) for part in name if part): rows for name, rows in records.groupby(columns, sort=False)}
    cells = {name: _cells(rows, metric) for name, rows in groups.items()}
    levels = sorted(records["level"].unique())
    density = records.groupby("level")["density"].mean()
    number = max(7, *(len(text) for each in cells.values() for text in each.values())) + 3  # with its border
    label = min(max(map(len, groups)), max(_LABEL, width - 4 - 3 * number))
    fitting = max(1, (width - label - 4) // number)
    if len(levels) > fitting:  # the first, the last, and evenly between
        levels = [levels[round(i * (len(levels) - 1) / max(1, fitting - 1))] for i in range(fitting)]
    table = Table(title=f"test {metric} over prunable weights left, mean ±sd over seeds", title_justify="left")
    table.add_column("curve", overflow="fold")
    for level in levels:
        table.add_column(left(density[level]), justify="right", no_wrap=True, min_width=number - 3)
    for name, texts in cells.items():
        table.add_row(Text(name), *(texts.get(level, "-") for level in levels))
    return Group(table, *_legend(letters))


def print_settled(console: Console, folder: StudyFolder, *, alone: bool) -> None:
    """Print that a study has nothing to run, and where it is the only one its results."""
    said = f"0 of {len(folder.outline.stages)} stages to run; the page was written after them and is left as it is"
    console.print(Text(said), soft_wrap=True)
    if alone:
        print_results(console, folder, records.read([folder.path]))


def print_results(console: Console, folder: StudyFolder, table: "DataFrame") -> None:
    """Print a study's table, and where its records and its page are."""
    if len(table):
        console.print(results_table(table, console.width))
    for what, name in (("records: ", "records.parquet"), ("report:  ", "report.html")):
        console.print(Text(f"{what}{folder.path / name}"), soft_wrap=True)


def _cells(rows: "DataFrame", metric: str) -> dict[int, str]:
    """Return level -> mean and deviation over seeds."""
    found = rows.groupby("level")[metric].agg(["mean", "std", "count"])
    return {
        level: f"{mean:.3f}" + (f" ±{deviation:.3f}" if count > 1 else "")
        for level, mean, deviation, count in found.itertuples()
        if count
    }


def lettered(variants: Iterable[str]) -> dict[str, str]:
    """Return variant -> the name that tables show: itself if all are short, otherwise A, B, ..., Z, AA, ..."""
    names = [variant for variant in dict.fromkeys(variants) if variant]
    if max(map(len, names), default=0) <= _LONG:
        return {name: name for name in names}
    letters = (("".join(pair)).strip() for pair in product(f" {string.ascii_uppercase}", string.ascii_uppercase))
    return dict(zip(names, letters, strict=False))


def _legend(letters: dict[str, str]) -> list[RenderableType]:
    return [Text(f"{letter}  {variant}") for variant, letter in letters.items() if letter != variant]


def graph_table(plan: Graph[Node], store: Store) -> RenderableType:
    """Return the graph: for each curve and level its stages, with the number of seeds that have them."""
    table = Table(title=f"{plan.name}: stages, done of all seeds", title_justify="left")
    for column in ("curve", "level", "stages of a level, parents first"):
        table.add_column(column, no_wrap=column == "level", overflow="fold")
    letters = lettered([*(row.labels["variant"] for row in plan.rows), *(row.labels["variant"] for row in plan.analyses)])
    # (name, level) -> (place in the chain, kind) -> the stages' keys: one a seed
    groups: dict[tuple[str, int], dict[tuple[int, str], set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in plan.rows:
        for place, stage in enumerate(_new_stages(row.stage)):
            groups[_name(row.labels, row.labels["curve"], letters), row.labels["level"]][place, stage.kind].add(stage.key)
    known = {stage.key for stage in ancestors(*(row.stage for row in plan.rows))}
    for analysis in plan.analyses:  # only the stages that no row of the records needs
        name = _name(analysis.labels, f"{analysis.labels['view']} between {analysis.labels['between']}", letters)
        for stage in (*analysis.stage.parents, analysis.stage):
            if stage.key not in known:
                groups[name, analysis.labels["level"]][0, stage.kind].add(stage.key)
    lines = [
        (name, level, " → ".join(_counted(kind, keys, store) for (_, kind), keys in kinds.items()))
        for (name, level), kinds in groups.items()
    ]
    for (name, what), alike in groupby(lines, key=lambda line: (line[0], line[2])):
        levels = [level for _, level, _ in alike]
        table.add_row(Text(name), f"{levels[0]}-{levels[-1]}" if len(levels) > 1 else str(levels[0]), Text(what))
    return Group(table, *_legend(letters))


def _counted(kind: str, keys: set[str], store: Store) -> str:
    return f"{kind} {sum(map(store.done, keys))}/{len(keys)}"


def _name(labels: Mapping[str, Any], what: str, letters: dict[str, str]) -> str:
    return " · ".join(part for part in (what, letters.get(labels["variant"], "")) if part)


def _new_stages(stage: Node) -> list[Node]:
    """Return the stages of one level: from the last pruning (or the start) to the evaluation."""
    chain = [stage]
    while chain[0].parents and chain[0].kind != "prune":
        chain.insert(0, chain[0].parents[0])
    return chain
