"""Prints docs/paper.md from results/paper-cpu: python docs/make_paper.py --figures > docs/paper.md

With `--figures` the page's figures are written to docs/paper/ too. Every verdict, number and comparison follows from the
records by a rule; what people wrote stands in docs/paper_notes.yaml.
"""

import argparse
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import pandas as pd
import yaml
from paper_figures import PAIRS, Plot, plots
from paper_parts import DET, EXTRAS, HIGH, SNR_, Pick, Pool, bullets, cost_table
from paper_views import barriers_of_samples, overlap_sentences, seeds_sentences
from PIL import Image

from tombola.claims import Row, judge
from tombola.claims.contrasts import left, level_near
from tombola.claims.curves import Missing
from tombola.claims.nets import FAMILIES, family_of
from tombola.claims.table import NOTE, SIGNS, effect, named, parts, region, remark, verdict_text
from tombola.metrics.column import MINUS, NONE
from tombola.report.analyses import seen
from tombola.report.figures import styles
from tombola.report.images import SETTINGS
from tombola.report.panels import panels
from tombola.report.quantities import ACCURACY, duration

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "results" / "paper-cpu"
NOTES = DOCS / "paper_notes.yaml"
DOTS = 130
"""Dots per inch of the figures."""

HEAD = """# The paper, claim by claim

<!-- Made by `python docs/make_paper.py --figures > docs/paper.md` from results/paper-cpu. Do not edit; what is written by
hand stands in docs/paper_notes.yaml. -->

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
"""Claims that stand in another section than that of their number."""
RULE = (
    "Beyond the paper, each over seeds with its 90% interval; these comparisons are no claims and take no part in Holm's "
    "correction:"
)


def page(results: Path, figures: Path | None = None) -> str:
    """The whole page; writes its figures into that folder if there is one."""
    record = json.loads((results / "record.json").read_text())
    records = pd.read_parquet(results / "records.parquet")
    views = pd.read_parquet(results / "views.parquet") if (results / "views.parquet").is_file() else pd.DataFrame()
    pool = Pool(records)
    rows = _short(judge(records))
    notes = yaml.safe_load(NOTES.read_text()) if NOTES.is_file() else {}
    with matplotlib.rc_context(SETTINGS):
        drawn = plots(pool, views)
        if figures:
            _write(drawn, figures)
    blocks = [HEAD, "## What was run", *_what_was_run(pool, record), LIMITS]
    blocks += ["## Verdicts", *_summary(rows, pool)]
    for section, (title, _) in SECTIONS.items():
        blocks += _section(section, title, [row for row in rows if _place(row) == section], pool, views, drawn, notes or {})
    return "\n\n".join(_filled(block) for block in blocks if block) + "\n"


def _write(drawn: Sequence[Plot], figures: Path) -> None:
    figures.mkdir(parents=True, exist_ok=True)
    for plot in drawn:
        buffer = io.BytesIO()
        plot.drawing.figure.savefig(buffer, format="png", dpi=DOTS, metadata={"Software": None})
        Image.open(buffer).convert("RGB").quantize(64).save(figures / f"{plot.name}.png", optimize=True)
        plot.drawing.numbers.to_csv(figures / f"{plot.name}.csv", index=False, float_format="%.6g", lineterminator="\n")


def _short(rows: Sequence[Row]) -> list[Row]:
    """With nets named by what sets them apart from the first one of their model, that most claims are about."""
    firsts: dict[str, list[str]] = {}
    named_short = []
    for row in rows:
        model, *settings = row.net.split(", ")
        home = firsts.setdefault(model, settings)
        apart = [each for each in settings if each not in home]
        named_short.append(replace(row, net=", ".join([model, *apart])))
    return named_short


def _what_was_run(pool: Pool, record: dict[str, Any]) -> list[str]:
    data = ", ".join(str(name) for name in pool.records["data"].unique())
    seeds, examples = pool.records["seed"].nunique(), int(pool.records["examples"].max())
    where = record["hardware"].get("gpu") or record["hardware"]["cpu"]
    versions = ", ".join(f"{name} {record['versions'][name]}" for name in ("python", "torch", "tombola"))
    said = (
        f"`{record['command']}`, {record['date']}, on {where} ({record['hardware']['cores']} cores, {record.get('jobs', 1)} "
        f"processes, {record['threads']} thread each), {versions}. Data: `{data}`, {examples:,} test images; {seeds} "
        f"seed{'s' if seeds > 1 else ''}. Accuracy: mean and standard deviation over seeds."
    )
    if "note" in record:
        said += f" {record['note']}"
    lines = [
        "| Net | Parameters | dense, deterministic | dense, Bayesian | sparse, deterministic | sparse, Bayesian (snr) |"
    ]
    lines += ["|" + " --- |" * 6]
    for model, own in pool.records.groupby("model", sort=False):
        cells = [_accuracy(pool, str(model), pick, level) for level in ("dense", "sparse") for pick in (DET, SNR_)]
        lines.append(f"| `{model}` | {int(own['parameters'].max()):,} | " + " | ".join(cells) + " |")
    sparse = f"Sparse is the level nearest {left(HIGH)} of the prunable weights."
    return [said, "\n".join(lines), sparse, *_spent(record)]


def _accuracy(pool: Pool, model: str, pick: Pick, where: str) -> str:
    try:
        found = pick.grid(pool, model, "accuracy")
        level = 0 if where == "dense" else level_near(found, found, HIGH)
    except Missing:
        return NONE
    values = found.values[level].dropna()
    return ACCURACY.spread(float(values.mean()), float(values.std(ddof=1))) + "%"


def _spent(record: dict[str, Any]) -> list[str]:
    lines = ["| Study | new trainings | time by the clock | alone, with what it shares |", "| --- | --- | --- | --- |"]
    for row in record["studies"]:
        new = f"{row['trainings_run']} of {row['trainings']}"
        lines.append(f"| `{row['study']}` | {new} | {duration(row['wall_seconds'])} | {duration(row['alone_seconds'])} |")
    total, runs = (
        sum(row["wall_seconds"] for row in record["studies"]),
        sum(row["trainings_run"] for row in record["studies"]),
    )
    lines.append(f"| all | {runs} | **{duration(total)}** | |")
    return ["\n".join(lines)]


def _summary(rows: Sequence[Row], pool: Pool) -> list[str]:
    """A line for each claim, a cell for each family; what else was judged beside."""
    heads = {family: family for family in FAMILIES if any(row.net.startswith(family) for row in rows)}
    lines = [f"| Claim | {' | '.join(heads)} | other nets and settings |", "|" + " --- |" * (len(heads) + 2)]
    for (name, sentence), own in groupby(rows, key=lambda row: (named(row), row.claim.sentence)):
        cells, others, there = [], [], list(own)
        for family in heads:
            mine = [row for row in there if family_of(row.net) == family]
            first = next((row for row in mine if row.net in pool.models), mine[0] if mine else None)
            cells.append(_verdict(first) if first else "")
            others += [f"{row.net} {_verdict(row)}" for row in mine if row is not first]
            if first and first.net not in pool.models and first.joint:
                cells[-1] += f" ({first.net})"
        lines.append(f"| **{name}** {sentence} | {' | '.join(cells)} | {'; '.join(others)} |")
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in SIGNS}
    counted = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n)
    holm = sum(row.corrected != row.verdict for row in rows if row.joint)
    fixed = sum(_place(row) == "cost" for row in rows)
    said = f"{len(rows)} rows of {len({row.claim.id for row in rows})} claims: {counted}. {fixed} of them are about cost, "
    said += f"which the recipe's one weight sample a step decides beforehand. {NOTE} "
    said += f"The correction changes {holm} of them, which is said in brackets. An empty cell: not about that family."
    return [said, "\n".join(lines)]


def _verdict(row: Row) -> str:
    return verdict_text(row.verdict) + ("" if row.corrected == row.verdict else f" (Holm: {row.corrected})")


def _place(row: Row) -> str:
    number = row.claim.id[0]
    return ELSEWHERE.get(row.claim.id) or next((name for name, (_, n) in SECTIONS.items() if n == number), "")


def _section(
    section: str,
    title: str,
    rows: Sequence[Row],
    pool: Pool,
    views: pd.DataFrame,
    drawn: Sequence[Plot],
    notes: dict[str, str],
) -> list[str]:
    blocks = [f"## {title}"]
    own = [plot for plot in drawn if plot.section == section]
    blocks += [text for plot in own[:1] for text in _figure(plot)]
    if rows:
        blocks.append(_claims(rows))
    if notes.get(section):
        blocks.append(str(notes[section]).strip())
    beyond = bullets(pool, EXTRAS.get(section, ()))
    if section in ("scores", "transplant"):
        beyond += overlap_sentences(pool, views, PAIRS if section == "scores" else PAIRS[:1])
    if section == "scores":
        beyond += seeds_sentences(
            pool, views, {"ticket (snr)": "snr tickets", "deterministic (magnitude)": "deterministic tickets"}
        )
    if section == "rewind":
        beyond += barriers_of_samples(pool, views, "ticket (snr)")
    blocks += [text for plot in own[1:] for text in _figure(plot)]
    blocks += [RULE, "\n".join(beyond)] if beyond else []
    blocks += _seen(section, pool, views)
    if section == "cost":
        blocks.append(
            "Cost as ratios, with 90% intervals over seeds; counted operations have none. One ticket is found from the start"
            " down to the last level; seconds are those of trainings that shared the machine with others."
        )
        blocks.append("\n".join(cost_table(pool)))
    return blocks


def _figure(plot: Plot) -> list[str]:
    what, _, rest = plot.caption.partition(". ")
    return [f"![{what}](paper/{plot.name}.png)", f"*{what}.* {rest} ([numbers](paper/{plot.name}.csv))"]


def _claims(rows: Iterable[Row]) -> str:
    lines = ["| Claim | Net | Verdict | Effect, 90% interval | says | n | beside* | what decides |", "|" + " --- |" * 8]
    without = []
    told = set[str]()
    for row in rows:
        if row.joint is None:
            without.append(f"- {named(row)} {row.net}: no data; {row.needs}")
            continue
        found = row.joint.deciding
        beside = verdict_text(row.beside.verdict) if row.beside else ""
        words = "; ".join(filter(None, [found.part.contrast.words, parts(row), remark(row)]))
        numbers = [text.replace("-", MINUS) for text in (effect(found), region(found))]
        claim = f"**{named(row)}**" + ("" if row.claim.id in told else f" {row.claim.sentence}")
        told.add(row.claim.id)
        cells = [claim, row.net, _verdict(row), *numbers, str(found.n), beside, words]
        lines.append(f"| {' | '.join(cells)} |")
    star = "\n\n\\* of the best epoch's accuracy, which is selected by test data, or of MACE of every class."
    table = "\n".join(lines) + star if len(lines) > 2 else ""
    return "\n\n".join(filter(None, [table, "\n".join(without)]))


VIEWS = {"scores": ("ranks", "early_bird"), "rewind": ("connectivity",)}
NAMES: dict[str, Pick] = {"ticket (snr)": SNR_, "deterministic (magnitude)": DET}


def _seen(section: str, pool: Pool, views: pd.DataFrame) -> list[str]:
    """The sentences of the report about views, of snr tickets and deterministic ones."""
    blocks = []
    for view in VIEWS.get(section, ()) if len(views) else ():
        lines = []
        for model in pool.models:
            rows = pd.concat([pick.of(pool, model).assign(curve=name) for name, pick in NAMES.items()], ignore_index=True)
            here = (views["view"] == view) & (views["model"] == model) & views["curve_a"].isin([*NAMES])
            own = views[here].drop_duplicates([name for name in views if name not in ("study", "key")])
            own = own.assign(variant=own["variant"].fillna(""))
            if rows.empty or own.empty:
                continue
            (panel,) = panels(rows.assign(variant=""))
            for found in seen(panel, own, styles(panel.curves)):
                lines += [f"- {model}: {' '.join(found.findings)}"]
        blocks += [f"*{TITLES[view]}*", "\n".join(lines)] if lines else []
    return blocks


TITLES = {
    "ranks": "Do scores rank weights alike? Spearman's correlation on the dense snr networks.",
    "early_bird": "How early is the mask settled?",
    "connectivity": "Are tickets linearly connected? Barriers of the error.",
}


def _filled(block: str) -> str:
    """Lines of at most 125 letters, but in tables, images and lists' items."""
    if block.startswith(("|", "![", "- ", "#", "<!--")) or "\n<!--" in block or "\n\n" in block:
        return block
    return fill(" ".join(block.split()), 125, break_on_hyphens=False, break_long_words=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of records (results/paper-cpu)")
    parser.add_argument("--figures", type=Path, nargs="?", const=DOCS / "paper", help="write figures here (docs/paper)")
    args = parser.parse_args()
    print(page(args.results, args.figures), end="")


if __name__ == "__main__":
    main()
