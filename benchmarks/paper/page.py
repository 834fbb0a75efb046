"""The page docs/paper.md from results/paper-cpu: every verdict, number and comparison follows from the records by a rule.

Hand-written text is in notes.yaml.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import pandas as pd
import yaml

from benchmarks.paper.comparisons import EXTRAS, barriers_of_samples, bullets, every_ticket
from benchmarks.paper.figures import Plot, plots
from benchmarks.paper.picks import CURVES, DET, SNR, Pick, Pool
from tombola.claims import Row, judge
from tombola.claims.contrasts import level_near
from tombola.claims.curves import Missing
from tombola.claims.nets import FAMILIES, family_of
from tombola.claims.paper import CLAIMS
from tombola.claims.paper.claims import HIGH
from tombola.claims.table import NOTE, SIGNS, named, verdict_text
from tombola.metrics.column import NONE, left
from tombola.report.analyses import seen
from tombola.report.figures import styles
from tombola.report.images import SETTINGS
from tombola.report.panels import panels
from tombola.report.quantities import ACCURACY, duration
from tombola.report.tables import judged

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS.parent / "results" / "paper-cpu"
NOTES = Path(__file__).parent / "notes.yaml"

HEAD = """# The paper, claim by claim

<!-- Made by `python -m benchmarks.paper page --figures > docs/paper.md` from results/paper-cpu. Do not edit; what is written
by hand stands in benchmarks/paper/notes.yaml. -->

The experiments of [arXiv 2602.18825](https://arxiv.org/abs/2602.18825), "Bayesian Lottery Ticket Hypothesis", run whole at
the size [`cpu`](recipes.md#sizes): small relatives of its nets on a subset of small images, over seeds, with controls that
the paper lacks. How a claim becomes a contrast and what a verdict means: [claims](claims.md)."""

LIMITS = """What this cannot say: the nets are small relatives, trained for a few epochs on a subset of one data set, and
accuracies are far below what the full nets reach; a claim that fails here may hold at the paper's size, and the other way
round. Intervals describe seeds, not test images, data or settings. Nothing was chosen on the test split; the final epoch's
accuracy is the result."""

SECTIONS = {
    "scores": ("Scores", "1"),
    "layers": ("Layers", "2"),
    "randomise": ("Randomisation", "3"),
    "transplant": ("Transplantation", "4"),
    "rewind": ("Learning-rate rewinding", "8"),
    "size": ("Size", "6"),
    "rate": ("Learning rate and warm-up", "7"),
    "calibration": ("Calibration", ""),
    "cost": ("Cost", "5"),
}
"""Title, and the number with which the ids of its claims begin."""

ELSEWHERE = {"1i": "calibration", "1j": "calibration", "4d": "calibration", "4e": "cost"}
"""Claims that are shown in another section than that of their number."""
ANALYSES = {"scores": ("overlap", "ranks", "early_bird"), "rewind": ("connectivity",)}
TITLES = {
    "overlap": "Which weights do masks share?",
    "ranks": "Do scores rank weights alike? Spearman's correlation on the dense snr networks.",
    "early_bird": "How early is the mask settled?",
    "connectivity": "Are tickets linearly connected? Barriers of the error.",
}
RULE = (
    "Beyond the paper, each over seeds with its 90% interval; these comparisons are no claims and take no part in Holm's "
    "correction:"
)


def page(results: Path, figures: Path | None = None) -> str:
    """Return the whole page; write its figures into that folder if there is one."""
    record = json.loads((results / "record.json").read_text())
    pool = Pool(pd.read_parquet(results / "records.parquet"))
    analyses = pd.read_parquet(results / "views.parquet") if (results / "views.parquet").is_file() else pd.DataFrame()
    rows = _short(judge(pool.records, CLAIMS))
    notes = yaml.safe_load(NOTES.read_text())
    with matplotlib.rc_context(SETTINGS):
        drawn = plots(pool, analyses)
        if figures:
            figures.mkdir(parents=True, exist_ok=True)
            for plot in drawn:
                plot.write(figures)
    blocks = [HEAD, "## What was run", *_what_was_run(pool, record), LIMITS, "## Verdicts", *_summary(rows, pool)]
    for section, (title, _) in SECTIONS.items():
        first, *others = [_figure(plot) for plot in drawn if plot.section == section] or [""]
        own = [row for row in rows if _place(row) == section]
        blocks += [f"## {title}", first, _claims(own) if own else "", str(notes.get(section, "")).strip(), *others]
        beyond = _beyond(section, pool, analyses)
        blocks += [RULE, "\n".join(beyond)] if beyond else []
        blocks += _seen(section, pool, analyses)
    return "\n\n".join(_filled(part) for block in blocks for part in block.split("\n\n") if part) + "\n"


def _short(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with nets named by the settings that the first net of their model, which most claims use, lacks."""
    firsts: dict[str, list[str]] = {}
    named_short = []
    for row in rows:
        model, *settings = row.net.split(", ")
        home = firsts.setdefault(model, settings)
        named_short.append(replace(row, net=", ".join([model, *(each for each in settings if each not in home)])))
    return named_short


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _what_was_run(pool: Pool, record: dict[str, Any]) -> list[str]:
    data = ", ".join(str(name) for name in pool.records["data"].unique())
    seeds, examples = pool.records["seed"].nunique(), int(pool.records["examples"].max())
    hardware = record["hardware"]
    versions = ", ".join(f"{name} {record['versions'][name]}" for name in ("python", "torch", "tombola"))
    said = (
        f"`{record['command']}`, {record['date']}, on {hardware.get('gpu') or hardware['cpu']} ({hardware['cores']} cores, "
        f"{record.get('jobs', 1)} processes, {record['threads']} thread each), {versions}. Data: `{data}`, {examples:,} "
        f"test images; {seeds} seed{'s' if seeds > 1 else ''}. Accuracy: mean and standard deviation over seeds. "
        f"{record.get('note', '')}"
    )
    kinds = [f"{level}, {kind}" for level in ("dense", "sparse") for kind in ("deterministic", "Bayesian")]
    nets = [
        [f"`{model}`", f"{int(own['parameters'].max()):,}"]
        + [_accuracy(pool, str(model), pick, level) for level in ("dense", "sparse") for pick in (DET, SNR)]
        for model, own in pool.records.groupby("model", sort=False)
    ]
    sparse = f"Sparse is the level nearest {left(HIGH)} of the prunable weights."
    studies = record["studies"]
    spent = [
        [f"`{row['study']}`", f"{row['trainings_run']} of {row['trainings']}"]
        + [duration(row[f"{clock}_seconds"]) for clock in ("wall", "alone")]
        for row in studies
    ]
    total, runs = (sum(row[name] for row in studies) for name in ("wall_seconds", "trainings_run"))
    spent.append(["all", str(runs), f"**{duration(total)}**", ""])
    times = _table(["Study", "new trainings", "time by the clock", "alone, with what it shares"], spent)
    return [said, _table(["Net", "Parameters", *kinds[:3], f"{kinds[3]} (snr)"], nets), sparse, times]


def _accuracy(pool: Pool, model: str, pick: Pick, where: str) -> str:
    try:
        found = pick.grid(pool, model, "accuracy")
        level = 0 if where == "dense" else level_near(found, found, HIGH)
    except Missing:
        return NONE
    values = found.values[level].dropna()
    return ACCURACY.spread(float(values.mean()), float(values.std(ddof=1))) + "%"


def _summary(rows: Sequence[Row], pool: Pool) -> list[str]:
    """Return a line for each claim, a cell for each family, and beside them the other nets and settings."""
    heads = [family for family in FAMILIES if any(row.net.startswith(family) for row in rows)]
    lines = []
    for (name, sentence), own in groupby(rows, key=lambda row: (named(row), row.claim.sentence)):
        cells, others, there = [], [], list(own)
        for family in heads:
            mine = [row for row in there if family_of(row.net) == family]
            first = next((row for row in mine if row.net in pool.models), mine[0] if mine else None)
            cells.append(_verdict(first) if first else "")
            others += [f"{row.net} {_verdict(row)}" for row in mine if row is not first]
            if first and first.net not in pool.models and first.joint:
                cells[-1] += f" ({first.net})"
        lines.append([f"**{name}** {sentence}", *cells, "; ".join(others)])
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in SIGNS}
    counted = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n)
    holm = sum(row.corrected != row.verdict for row in rows if row.joint)
    fixed = sum(_place(row) == "cost" for row in rows)
    said = (
        f"{len(rows)} rows of {len({row.claim.id for row in rows})} claims: {counted}. {fixed} of them are about cost, "
        f"which the recipe's one weight sample a step decides beforehand. {NOTE} The correction changes {holm} of them, "
        "which is said in brackets. An empty cell: not about that family."
    )
    return [said, _table(["Claim", *heads, "other nets and settings"], lines)]


def _verdict(row: Row) -> str:
    return verdict_text(row.verdict) + ("" if row.corrected == row.verdict else f" (Holm: {row.corrected})")


def _place(row: Row) -> str:
    number = row.claim.id[0]
    return ELSEWHERE.get(row.claim.id) or next((name for name, (_, n) in SECTIONS.items() if n == number), "")


def _figure(plot: Plot) -> str:
    what, _, rest = plot.caption.partition(". ")
    return f"![{what}](paper/{plot.name}.png)\n\n*{what}.* {rest} ([numbers](paper/{plot.name}.csv))"


def _claims(rows: Iterable[Row]) -> str:
    """Return the claims with data as a table, each sentence once, and the needs of the others."""
    lines, without, told = [], [], set[str]()
    for row in rows:
        if row.joint is None:
            without.append(f"- {named(row)} {row.net}: no data; {row.needs}")
            continue
        shown = judged(row)
        claim = f"**{shown.name}**" + ("" if row.claim.id in told else f" {shown.sentence}")
        told.add(row.claim.id)
        lines.append([claim, row.net, _verdict(row), shown.effect, shown.says, str(shown.n), shown.beside, shown.contrast])
    head = ["Claim", "Net", "Verdict", "Effect, 90% interval", "says", "n", "beside*", "what decides"]
    star = "\\* of the best epoch's accuracy, which is selected by test data, or of MACE of every class."
    return "\n\n".join([*([_table(head, lines), star] if lines else []), *(["\n".join(without)] if without else [])])


def _beyond(section: str, pool: Pool, analyses: pd.DataFrame) -> list[str]:
    special: dict[str, Callable[[], list[str]]] = {
        "rewind": lambda: barriers_of_samples(pool, analyses, "ticket (snr)"),
        "cost": lambda: every_ticket(pool),
    }
    return bullets(pool, EXTRAS.get(section, ())) + special.get(section, list)()


def _seen(section: str, pool: Pool, analyses: pd.DataFrame) -> list[str]:
    """Return the report's sentences about analyses, of the curves in `CURVES`."""
    blocks = []
    for analysis in ANALYSES.get(section, ()) if len(analyses) else ():
        lines = []
        for model in pool.models:
            rows = pd.concat([pick.of(pool, model).assign(curve=name) for name, pick in CURVES.items()], ignore_index=True)
            here = (analyses["view"] == analysis) & (analyses["model"] == model) & analyses["curve_a"].isin([*CURVES])
            own = analyses[here].drop_duplicates([name for name in analyses if name not in ("study", "key")])
            own = own.assign(variant=own["variant"].fillna(""))
            if rows.empty or own.empty:
                continue
            (panel,) = panels(rows.assign(variant=""))
            for found in seen(panel, own, styles(panel.curves)):
                lines += [f"- {model}: {' '.join(found.findings)}"]
        blocks += [f"*{TITLES[analysis]}*", "\n".join(lines)] if lines else []
    return blocks


def _filled(block: str) -> str:
    """Return the block in lines of at most 125 letters, unless it is a table, an image or a list."""
    if block.startswith(("|", "![", "- ", "#", "<!--")):
        return block
    return fill(" ".join(block.split()), 125, break_on_hyphens=False, break_long_words=False)
