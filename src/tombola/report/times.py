"""Where the time of a study went."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from tombola.report.figures import WIDE, Drawing
from tombola.report.quantities import duration, listed
from tombola.report.tables import Table

KINDS = ("train", "prune", "evaluate")  # the rest is quick, but for views
OTHER = "other"
GREYS = {"train": "0.35", "prune": "0.6", "evaluate": "0.8", OTHER: "0.93"}  # colours are for curves
UNITS = {"hours": 3600.0, "minutes": 60.0, "seconds": 1.0}


def spent(stages: pd.DataFrame, curves: Sequence[str]) -> pd.DataFrame:
    """Seconds by curve (rows, in that order) and kind (`KINDS` and "other"); curves without a stage are left out."""
    kinds = stages["kind"].where(stages["kind"].isin(KINDS), OTHER)
    table = stages.groupby(["curve", kinds])["seconds"].sum().unstack(fill_value=0)
    there = [curve for curve in curves if curve in table.index]
    return table.reindex(index=there, columns=[*KINDS, OTHER], fill_value=0.0)


def bars(table: pd.DataFrame) -> Drawing:
    """A bar per curve, the first one on top, whose parts are the kinds of stages."""
    unit = next((name for name, size in UNITS.items() if table.to_numpy().sum(axis=1).max() >= 2 * size), "seconds")
    figure = Figure(figsize=(WIDE, 1.15 + 0.27 * len(table)), layout="constrained")
    axes = figure.add_subplot()
    before = pd.Series(0.0, index=table.index)
    for kind in table.columns:
        width = table[kind] / UNITS[unit]
        axes.barh(range(len(table)), width, left=before, color=GREYS[kind], label=kind, height=0.65, edgecolor="0.3", lw=0.6)
        before = before + width
    axes.set_yticks(range(len(table)), list(table.index))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"time, all seeds and levels ({unit})")
    figure.legend(loc="outside lower center", ncols=len(table.columns), fontsize=8.5)
    numbers = (table / UNITS[unit]).rename_axis(index="curve").reset_index().melt("curve", var_name="kind", value_name=unit)
    return Drawing(figure, numbers)


def caption(table: pd.DataFrame) -> str:
    """How much time in all, and for what most of it."""
    total = table.to_numpy().sum()
    shares = (table.sum() / total).sort_values(ascending=False) if total else table.sum()
    named = listed([f"{100 * share:.0f}% {kind}" for kind, share in shares.items() if share >= 0.005])
    return (
        f"Where the time went, by the curve's stages: {duration(total)} in all; {named}. A stage that several curves share "
        "counts once, for the first of them; stages that an earlier study had finished count as if they were run here."
    )


def time_table(stages: pd.DataFrame, table: pd.DataFrame) -> Table:
    """The same numbers, with how many trainings there were and what one took."""
    trained = stages[stages["kind"] == "train"].groupby("curve")["seconds"]
    counts, means = trained.count(), trained.mean()
    rows = [
        [curve, str(counts.get(curve, 0)), duration(means.get(curve, float("nan")))]
        + [duration(seconds) for seconds in (*parts, sum(parts))]
        for curve, parts in zip(table.index, table.to_numpy().tolist(), strict=True)
    ]
    parts = table.sum().tolist()
    every = stages.loc[stages["kind"] == "train", "seconds"]
    rows.append(["all", str(len(every)), duration(every.mean()), *map(duration, (*parts, sum(parts)))])
    return Table(
        title="Time by kind of stage, all seeds and levels",
        head=["curve", "trainings", "one training", *table.columns, "sum"],
        rows=rows,
    )
