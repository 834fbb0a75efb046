"""Print docs/records.md from the table of columns, by `python docs/make_records.py > docs/records.md`."""

from collections.abc import Sequence

from tombola.metrics.column import Column, Kind
from tombola.metrics.columns import ANALYSES, RECORDS

HEAD = '''# Records

<!-- Made by `python docs/make_records.py > docs/records.md`. Do not edit: edit the sentences in the code. -->

`records.parquet` has one row for each ticket that was evaluated: one curve, one seed, one level. It is written while a study
runs (at most once a minute) and at its end.

```python
import pandas as pd

records = pd.read_parquet("runs/demo/records.parquet")
curves = records.groupby(["curve", "level"])[["density", "accuracy", "nll", "ece", "ece_null"]].mean()
print(curves.loc["ticket (snr)"])
```

Arms are paired by seed. So compare them seed by seed:

```python
level = records["level"].max()
last = records[records["level"] == level].pivot(index="seed", columns="curve", values="accuracy")
print((last["ticket (snr)"] - last["re-init (snr)"]).describe())
```

DuckDB reads the files of many studies at once, without loading them:

```python
import duckdb

print(
    duckdb.sql("""
        SELECT study, curve, round(100 * avg(density), 2) AS "left %", count(DISTINCT seed) AS seeds,
               round(avg(accuracy), 4) AS accuracy, round(stddev_samp(accuracy), 4) AS sd
        FROM read_parquet('runs/*/records.parquet', union_by_name = true)
        GROUP BY study, curve, level
        ORDER BY study, curve, level
    """)
)
```

`layer_density` is JSON, which DuckDB opens as well: the density of each layer at the last level, averaged over seeds.

```python
layers = duckdb.sql("""
    SELECT curve, layer, avg((layer_density ->> ('$."' || layer || '"'))::DOUBLE) AS density
    FROM (SELECT *, unnest(json_keys(layer_density)) AS layer FROM 'runs/demo/records.parquet')
    WHERE level = (SELECT max(level) FROM 'runs/demo/records.parquet')
    GROUP BY curve, layer ORDER BY curve, layer
""").df()
print(layers.pivot(index="layer", columns="curve", values="density").round(4))
```

From a row to its ticket:

```python
import tombola

ticket = tombola.load(f"runs/tombola-stages/{records['ticket'].iloc[-1]}/ticket.safetensors")
print(ticket.density, ticket.info["model"], len(ticket.info["history"]), "epochs")
```
'''

SECTIONS: list[tuple[str, Sequence[Kind], str]] = [
    ("What a row is of", ("label", "size"), ""),
    (
        "How good its predictions are",
        ("metric",),
        "On the test split (or on the validation split, by `evaluate.split`, which `data` then says), after the last epoch, "
        "from the\naverage of `samples` predictive distributions, averaged over `repeats`. A regression has `nll` and "
        "`rmse`, counts also `deviance`, and the rest of\nthis and the next section is empty; a classification has neither.",
    ),
    (
        "How good its confidences are",
        ("calibration", "null"),
        "Three calibration errors, each with the same companions. All use `evaluate.bins` bins of equal width and leave out "
        "empty\nones. With the measure `adaptive` there is a fourth, of bins of equally many examples.",
    ),
    (
        "What its uncertainty is for",
        ("uncertainty",),
        "With [`evaluate.measures`](uncertainty.md), those of the measures that are asked for, averaged over `repeats`. "
        "Names\nend with the score of uncertainty: `confidence` (1 - the largest probability), `entropy` (of the averaged "
        "prediction),\n`information` (mutual information of label and weights; empty for a deterministic network). In their "
        "middle is the set of\n[outliers](uncertainty.md#outliers).",
    ),
    (
        "What its sigmas did",
        ("drift",),
        "Over the surviving random parameters, from the start of this training to its end; empty for a deterministic "
        "network.",
    ),
    ("How it was made", ("setting", "cost", "timing", "environment"), ""),
]

TAIL = """
{timing} differ between two runs of the same study; {environment} tell where a row was made.
Leave these out when comparing records. To record another number: [add a column](add-a-column.md).

## The table of analyses

A study with [analyses](analyses.md) has `views.parquet` beside it, with a number a row. a and b are the tickets that are
compared; where one is looked at, they are the same.
"""


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for title, kinds, text in SECTIONS:
        parts += [
            f"## {title}",
            text,
            _table([column for kind in kinds for column in RECORDS.values() if column.kind == kind]),
        ]
    tail = TAIL.format(timing=_named("timing"), environment=_named("environment"))
    texts = [part.strip("\n") for part in (*parts, tail)]
    return "\n\n".join(filter(None, [*texts, _table(list(ANALYSES.values()))])) + "\n"


def _table(columns: Sequence[Column]) -> str:
    """Return a row for each unit and sentence, with the names of all columns that have both."""
    lines = ["| Column | Unit | Meaning |", "| --- | --- | --- |"]
    rows: dict[tuple[str, str], list[str]] = {}
    for column in columns:
        rows.setdefault((column.unit, column.sentence), []).append(f"`{column.name}`")
    lines += [f"| {', '.join(names)} | {unit} | {sentence} |" for (unit, sentence), names in rows.items()]
    return "\n".join(lines)


def _named(kind: Kind) -> str:
    *most, last = [f"`{column.name}`" for column in RECORDS.values() if column.kind == kind]
    return f"{', '.join(most)} and {last}"


if __name__ == "__main__":
    print(page(), end="")
