"""The page docs/field.md from the records: the table, three figures, the claims; every number follows by a rule."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import fill

import matplotlib
import pandas as pd

from benchmarks.field.rows import MEASURES, PLAN, labelled, line, place
from benchmarks.paper.figures import write
from tombola.claims import Row, judge
from tombola.claims.field import CLAIMS
from tombola.claims.table import decided, effect, named, region, remark
from tombola.metrics.column import MINUS, NONE, left
from tombola.report.figures import Cell, Drawing, cell, grid
from tombola.report.images import SETTINGS
from tombola.report.looks import styles
from tombola.report.quantities import ACCURACY, duration, quantity_of

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS.parent / "results" / "field-cpu"

HEAD = """# The field

<!-- Made by `python -m benchmarks.field page --figures > docs/field.md` from results/field-cpu. Do not edit. -->

Methods, masks and ways to be sparse side by side, on one net. `pruned` is [iterative pruning](concepts.md) by snr or,
of deterministic networks, by magnitude; `shuffled` a random mask of the same layer densities; `of deterministic` the
mask of the deterministic chain, under which the other [methods](methods.md) are trained; the rest are [ways to be
sparse](sparse-ways.md) at the start or within one training. All rows of a density have exactly as many weights."""

READING = """Mean over seeds, ± half of its 90% interval (Student's t; none for one seed). Accuracy and
[calibration](concepts.md#metrics-and-their-nulls) are of {examples:,} test images, [AURC](uncertainty.md#rejection)
by confidence, OOD the mean AUROC by entropy of noise, textures and digits, beside it by mutual information (below 50%
the network is surer of outliers than of test images), *corrupted* the accuracy over fifteen corruptions. TFLOPs count all
trainings that a ticket needs, those of the levels before it too; kB is its [compact file](export.md#a-compact-file).
`dense` has the settings of the row's method and all weights."""

LITERATURE = ["SG-MCMC, spike and slab, ResNet-20*", "9.65% left", "91.60 (0.06)"]
SOURCE = """\\* From the literature, at another size: mean and spread of 3 runs on CIFAR-10, averaged over the models of the
last 75 epochs, with 9.65% (0.05%) of the weights. Sun, Song and Liang 2022, *Learning sparse deep neural networks with a
spike-and-slab prior*, Statistics & Probability Letters 180:109246; the numbers are those of
[their code's page](https://github.com/sylydya/Learning-sparse-deep-neural-networks-with-a-spike-and-slab-prior)."""

CLAIMED = """The claims were [written down](claims.md#the-field) before the study was run; verdicts are [as
everywhere](claims.md#verdicts), after Holm's correction over these rows."""

LEFT_OUT = """Each seed has 49 trainings. Left out to keep to 150: 9.6% left of all but iterative pruning and its
shuffles, since arms differ most where little is left; `sgld`, which is `sghmc` without momentum and needs another
rate, while an arm's rate is its chain's too; the diagonal `laplace`, whose curvature costs an epoch for each class;
GraSP; Bayesian networks pruned at the start; structured masks; chains of the other methods' own; other nets. Net,
epochs and heat (of .1 and .03) were chosen on the dense accuracy of vi and deterministic networks on test images,
nothing else was. Random masks under HMC are [judged elsewhere](claims.md#the-field), on a small net."""

RUN = """```sh
tombola run field field_last_layer --out runs --store runs/stages --jobs 2 --set data.args.path=FOLDER
python -m benchmarks.field keep runs/field runs/field_last_layer
python -m benchmarks.field page --figures > docs/field.md
tombola claims runs/field
```

On a GPU, with a larger net, in a [sprint](gpu.md) of a quarter of an hour:
`python -m benchmarks.gpu sprint --path FOLDER --studies field --nets fast --seeds 1 --minutes 14 --out results/gpu/field`.
A minute on digits shows whether all is in order:

```sh
tombola run field --out runs/field-toy --set 'data={name: digits, args: {validation: 0, test: 1297}}' \\
    --set 'model.args.widths=[4, 8, 8]' --set train.epochs=2 --set train.batch_size=25 --set train.keep=4 \\
    --set evaluate.samples=2 --set 'seeds=[0]'
```"""

NOT_YET = "**It has not been run yet**, so there is no table here."


def page(folder: Path = RESULTS, figures: Path | None = None) -> str:
    """Return the page; write its figures and their numbers into `figures` if it is given."""
    if not (folder / "records.parquet").is_file():
        return _joined([HEAD, NOT_YET, "## Run it", RUN])
    records = labelled(pd.read_parquet(folder / "records.parquet"))
    drawn = dict(drawings(records))
    if figures:
        figures.mkdir(parents=True, exist_ok=True)
        for name, drawing in drawn.items():
            write(drawing, figures, name)
    last = records.loc[records["level"].idxmax(), "density"]
    sparse = records[records["level"] == records["level"].max()]
    others = records[records["level"] < records["level"].max()]
    shown = others[others["level"].isin(_common(others))]
    blocks = [
        HEAD,
        *_progress(records),
        f"## The table: {left(last)} of the weights left",
        _table(pd.concat([shown[(shown["level"] == 0) & shown["arm"].isin(["ticket", "deterministic"])], sparse]))
        + "\n"
        + _line([*LITERATURE, *[NONE] * len(MEASURES)]),
        READING.format(examples=int(records["examples"].max())),
        SOURCE,
        *_folded("Dense, and levels between", [_table(shown, level=True)]),
        *(block for name in drawn for block in (f"![{FIGURES[name]}](field/{name}.png)", _caption(name))),
        "## What follows",
        CLAIMED,
        _verdicts(judge(records, CLAIMS)),
        "## What was left out",
        LEFT_OUT,
        "## Run it",
        *_machine(folder / "record.json"),
        RUN,
    ]
    return _joined(blocks)


def _common(records: pd.DataFrame) -> list[int]:
    """Return dense and the levels at which more than the two chains were trained."""
    arms = records.groupby("level")["arm"].nunique()
    return [int(level) for level in arms.index if level == 0 or arms[level] > 2]


def _progress(records: pd.DataFrame) -> Iterator[str]:
    """Yield a warning where rows lack seeds."""
    seeds = records.groupby(["curve", "level"])["seed"].nunique()
    if (seeds < PLAN).any():
        whole = int((seeds >= PLAN).sum())
        yield (
            f"**The study is unfinished**: {whole} of {len(seeds)} rows have all {PLAN} seeds; the others say how many. "
            "Below three there is no verdict."
        )


def _table(records: pd.DataFrame, *, level: bool = False) -> str:
    """Return the rows as a table, each method and mask at each level, dense first."""
    order = sorted(records.groupby(["level", "by", "mask"], sort=False), key=lambda found: (found[0][0], place(found[1])))
    lines = [[*([left(rows["density"].mean())] if level else []), *line(rows)] for _, rows in order]
    head = [*(["left"] if level else []), "method", "mask", *(measure.name for measure in MEASURES), "seeds"]
    return _markdown(head, lines)


def _verdicts(rows: Sequence[Row]) -> str:
    lines, without = [], []
    for row in rows:
        if row.joint is None:
            without.append(f"- {named(row)}: no data; {row.needs}")
            continue
        found = row.joint.deciding
        said = "; ".join(filter(None, [found.part.contrast.words, remark(row)]))
        words = f"**{named(row)}** {row.claim.sentence}"
        cells = [words, row.net, decided(row), effect(found), region(found), str(found.n), said]
        lines.append([re.sub(r"(^|[ \[])-(?=\d)", rf"\1{MINUS}", cell) for cell in cells])
    head = ["Claim", "Net", "Verdict", "Effect, 90% interval", "says", "n", "what decides, and remarks"]
    return "\n\n".join(filter(None, [_markdown(head, lines) if lines else "", "\n".join(without)]))


FIGURES = {
    "masks": "Accuracy over weights left: masks by pruning (left), and shuffled (right)",
    "trust": "AURC, outliers and corrupted images over weights left, pruned masks",
    "cost": "Accuracy at the last level over the operations of all trainings that it needs",
}
"""Name -> what the figure shows."""
IN_TRUST = ("vi, pruned", "deterministic, pruned", "sghmc, pruned", "MC dropout, pruned", "ensemble, pruned")


def drawings(records: pd.DataFrame) -> Iterator[tuple[str, Drawing]]:
    """Yield name and drawing of each figure that the records have points for."""
    with matplotlib.rc_context(SETTINGS):
        for name, cells in {"masks": _masks(records), "trust": _trust(records), "cost": _cost(records)}.items():
            found = [one for one in cells if len(one.points)]
            if found:
                curves = list(dict.fromkeys(curve for one in found for curve in one.points["curve"]))
                across = "operations of all trainings (10\u00b9\u00b2)" if name == "cost" else "density"
                yield name, grid(found, styles(curves), across)


def _curves(records: pd.DataFrame, mask: str) -> pd.DataFrame:
    """Return the curves of a kind of mask by their methods, each with its dense network."""
    own = records[records["mask"].str.fullmatch(f"{mask}(, of deterministic)?")]
    own = own[~((own["arm"] == "transplant") & (own["by"] == "vi"))]  # beside it stand tickets of their own
    dense = records[(records["level"] == 0) & records["by"].isin(own["by"])]
    found = pd.concat([dense, own])
    return found.assign(curve=found["by"] + ", " + ("pruned" if mask == "pruned" else "shuffled"))


def _masks(records: pd.DataFrame) -> list[Cell]:
    kinds = {"pruned": "pruned", "shuffled": "shuffled"}
    found = {title: _curves(records, mask) for title, mask in kinds.items()}
    # one look for a method in both plots
    return [
        cell(rows.assign(curve=rows["by"]), ACCURACY, column=i, title=title) for i, (title, rows) in enumerate(found.items())
    ]


def _trust(records: pd.DataFrame) -> list[Cell]:
    rows = _curves(records, "pruned")
    rows = rows[rows["curve"].isin(IN_TRUST)]
    names = ("aurc_confidence", "auroc_textures_entropy", "accuracy_corrupted")
    rows = rows.assign(curve=rows["by"])
    return [cell(rows, quantity_of(name), column=i, own_scale=True) for i, name in enumerate(names)]


def _cost(records: pd.DataFrame) -> list[Cell]:
    """Return a plot for deterministic networks and one for others: accuracy over TFLOPs at the last level."""
    sparse = records[(records["level"] == records["level"].max()) & ~records["mask"].str.contains("shuffled|re-drawn")]
    found = []
    point = sparse["method"] == "map"
    for i, (title, own) in enumerate({"deterministic": sparse[point], "Bayesian": sparse[~point]}.items()):
        groups = own.groupby("curve", sort=False)
        percent = groups["accuracy"].agg(["mean", "min", "max", "count"]) * [100, 100, 100, 1]
        points = percent.rename(columns={"min": "low", "max": "high", "count": "seeds"})
        points = points.assign(x=groups["total_flops"].mean() * 1e-12).reset_index()
        found.append(Cell(row=0, column=i, title=title, axis=ACCURACY.axis_label, points=points))
    return found


def _caption(name: str) -> str:
    return f"*{FIGURES[name]}; bars span the seeds.* ([numbers](field/{name}.csv))"


def _machine(path: Path) -> Iterator[str]:
    if not path.is_file():
        return
    record = json.loads(path.read_text())
    hardware, versions = record["hardware"], record["versions"]
    yield (
        f"The records are of {record['date']}, on {hardware['cpu']} ({hardware['cores']} cores, one thread "
        f"a training), torch {versions['torch']}: {record['trainings']} tickets, "
        f"{duration(record['alone_seconds'])} of one core. The machine had other work, so seconds are not compared."
    )


def _folded(title: str, blocks: Sequence[str]) -> list[str]:
    return [f"<details>\n<summary>{title}</summary>", *blocks, "</details>"]


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(map(_line, rows))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _joined(blocks: Sequence[str]) -> str:
    parts = [part for block in blocks for part in block.split("\n\n") if part]
    return "\n\n".join(_filled(part) for part in parts) + "\n"


def _filled(block: str) -> str:
    """Return the block in lines of at most 125 letters, unless it is a table, an image, a list, code or markup."""
    if block.startswith(("|", "![", "- ", "#", "<", "```", "tombola", "python")):
        return block
    return fill(" ".join(block.split()), 125, break_on_hyphens=False, break_long_words=False)
