"""The page docs/paper.md from records of the sizes cpu and gpu: every verdict and number follows from them by a rule.

Hand-written text is in notes.yaml.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from textwrap import fill

import pandas as pd
import yaml

from benchmarks.paper.comparisons import compared, told
from benchmarks.paper.figures import DRAWN, drawings, write
from benchmarks.paper.picks import CURVES, DET, SNR, Pick, Pool
from tombola.claims import Row, judge
from tombola.claims.contrasts import level_near
from tombola.claims.curves import Missing
from tombola.claims.nets import FAMILIES, family_of
from tombola.claims.paper import CLAIMS
from tombola.claims.paper.claims import HIGH
from tombola.claims.table import decided, effect, headline, named, region, remark, verdict_text
from tombola.metrics.column import MINUS, NONE, left
from tombola.report.analyses import seen
from tombola.report.looks import styles
from tombola.report.panels import panels
from tombola.report.quantities import ACCURACY, duration
from tombola.report.text import sentence

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = DOCS.parent / "results"
FOLDERS = {"cpu": RESULTS / "paper-cpu", "gpu": RESULTS / "gpu" / "paper"}
"""Size -> folder of its records."""
NOTES = Path(__file__).parent / "notes.yaml"
NOT_RUN = "not run yet"

HEAD = """# The paper, claim by claim

<!-- Made by `python -m benchmarks.paper page --figures > docs/paper.md` from the records in results/. Do not edit; what is
written by hand stands in benchmarks/paper/notes.yaml. -->

The experiments of [arXiv 2602.18825](https://arxiv.org/abs/2602.18825), "Bayesian Lottery Ticket Hypothesis", over seeds,
with controls that the paper lacks, at two [sizes](recipes.md#sizes): `cpu` has small relatives of its nets on small images,
`gpu` the nets themselves and one made for speed, `fast`, the
only one that has run the studies, with [one seed](gpu.md#what-was-seen): too few for a verdict."""

READING = """Each cell is the verdict for the first net of the family, after Holm's correction; *alone* is the one without.
[Claims](claims.md) says what verdicts mean; an empty cell is no claim about that family. The sentences below are about
`cpu`; each section has its numbers, folded, beside those of other nets and settings, which are never pooled."""

LIMITS = """At `cpu` the nets are small and trained for a few epochs on a subset: accuracies are far below those of the full
nets, and a claim may hold at one size and fail at another. Intervals describe seeds, not test images, data or settings.
Nothing was chosen on the test split; the final epoch's accuracy is the result."""

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


@dataclass(frozen=True)
class Size:
    """The judged records of a size."""

    name: str
    pool: Pool
    rows: list[Row]
    extras: dict[str, list[Row]]


def page(folders: Mapping[str, Path] = FOLDERS, figures: Path | None = None) -> str:
    """Return the whole page; write its figures into that folder if there is one. A size without records is not run yet."""
    pools = {name: pool for name, folder in folders.items() if (pool := Pool.of(folder))}
    sizes = [Size(name, pool, _short(judge(pool.records, CLAIMS)), compared(pool)) for name, pool in pools.items()]
    drawn = [(size.name, section, drawing) for size in sizes for section, drawing in drawings(size.pool)]
    if figures:
        figures.mkdir(parents=True, exist_ok=True)
        for size_name, section, drawing in drawn:
            write(drawing, figures, f"{size_name}-{section}")
    notes = yaml.safe_load(NOTES.read_text())
    blocks = [HEAD, *_said(sizes, folders), _verdicts(sizes, list(folders)), READING]
    for section, (title, _) in SECTIONS.items():
        images = [_image(name, section) for name, its, _ in drawn if its == section]
        blocks += [f"## {title}", *images[:1], str(notes.get(section, "")).strip()]
        blocks += _folded("The numbers", [*images[1:], *(block for size in sizes for block in _numbers(size, section))])
    blocks += ["## What was run", LIMITS, *(block for size in sizes for block in _what_was_run(size))]
    return "\n\n".join(_filled(part) for block in blocks for part in block.split("\n\n") if part) + "\n"


def _said(sizes: Sequence[Size], folders: Mapping[str, Path]) -> list[str]:
    """Return the headline of each size."""
    found = {size.name: headline(size.rows) for size in sizes}
    return ["\n".join(f"- **{name}**: {found.get(name, f'{NOT_RUN}.')}" for name in folders)]


def _verdicts(sizes: Sequence[Size], names: Sequence[str]) -> str:
    """Return the table of claims by family, the sizes side by side."""
    there = {size.name: size for size in sizes}
    heads = [f"{family}, {name}" for family in FAMILIES for name in names]
    lines = []
    for claim in CLAIMS.values():
        for case in claim.cases:
            words = f"**{claim.id}{f' ({case})' if case else ''}** {claim.sentence}"
            cells = [
                "" if claim.nets and not any(start.startswith(family) for start in claim.nets)
                else _cell(there[name], claim.id, case, family) if name in there
                else NOT_RUN
                for family in FAMILIES
                for name in names
            ]  # fmt: skip
            lines.append([words, *cells])
    return _table(["Claim", *heads], lines)


def _cell(size: Size, id_: str, case: str, family: str) -> str:
    """Return the verdict of the first net of the family, with its name where it is not the size's usual one."""
    mine = [row for row in size.rows if (row.claim.id, row.case) == (id_, case) and family_of(row.net) == family]
    if not mine:
        return NONE
    first = next((row for row in mine if row.net in size.pool.models), mine[0])
    return decided(first) + (f" ({first.net})" if first.joint and first.net not in size.pool.models else "")


def _numbers(size: Size, section: str) -> list[str]:
    """Return the tables of a section: claims, comparisons beyond them, and findings of analyses."""
    rows = [row for row in size.rows if _place(row) == section]
    lines, without = [], []
    for (name, said), own in groupby(rows, key=lambda row: (named(row), row.claim.sentence)):
        for i, row in enumerate(own):
            if row.joint is None:
                without.append(f"- {name} {row.net}: no data; {row.needs}")
                continue
            found = row.joint.deciding
            beside = verdict_text(row.beside.verdict) if row.beside else ""
            words = "; ".join(filter(None, [found.part.contrast.words, remark(row)]))
            numbers = [effect(found), region(found), str(found.n), beside, words]
            lines.append([f"**{name}**" + ("" if i else f" {said}"), row.net, decided(row), *map(_minus, numbers)])
    head = ["Claim", "Net", "Verdict", "Effect, 90% interval", "says", "n", "beside*", "what decides, and remarks"]
    star = "\\* of the best epoch's accuracy, which is selected by test data, or of MACE of every class."
    blocks = [_table(head, lines), star] if lines else []
    blocks += ["\n".join(without)] if without else []
    extras = size.extras.get(section, [])
    if extras:
        blocks.append("Beyond the paper, the first minus the second, after Holm's correction over all such comparisons:")
        blocks.append(
            _table(["Comparison", "Of", "Net", "The first is", "Effect, 90% interval", "n"], map(_compared, extras))
        )
    return [*blocks, *_analyses(size.pool, section)]


def _compared(row: Row) -> list[str]:
    assert row.joint is not None
    found = row.joint.deciding
    words = sentence(found.part.contrast.words)
    return [words, row.claim.sentence, row.net, told(row), _minus(effect(found)), str(found.n)]


def _analyses(pool: Pool, section: str) -> Iterator[str]:
    """Yield the report's findings about analyses, of the curves in `CURVES`."""
    for model in pool.models if len(pool.analyses) else ():
        rows = pd.concat([pick.of(pool, model).assign(curve=name) for name, pick in CURVES.items()], ignore_index=True)
        own = pool.analyses[(pool.analyses["model"] == model) & pool.analyses["curve_a"].isin([*CURVES])]
        own = own[own["view"].isin(ANALYSES.get(section, ()))]
        own = own.drop_duplicates([name for name in own if name not in ("study", "key")])
        if rows.empty or own.empty:
            continue
        (panel,) = panels(rows.assign(variant=""))
        for found in seen(panel, own.assign(variant=own["variant"].fillna("")), styles(panel.curves)):
            yield "\n".join([f"- **{model}, {found.title}**", *(f"  - {finding}" for finding in found.findings)])


def _what_was_run(size: Size) -> list[str]:
    """Return the nets with their accuracies, and the machine with the times of the studies, folded."""
    record, records = size.pool.run, size.pool.records
    kinds = [f"{level}, {kind}" for level in ("dense", "sparse") for kind in ("deterministic", "Bayesian (snr)")]
    nets = [
        [f"`{model}`", f"{int(own['parameters'].max()):,}"]
        + [_accuracy(size.pool, str(model), pick, level) for level in ("dense", "sparse") for pick in (DET, SNR)]
        for model, own in records.groupby("model", sort=False)
    ]
    data = ", ".join(f"`{name}`" for name in records["data"].unique())
    said = (
        f"Size `{size.name}`: {data}, {int(records['examples'].max()):,} test images, {records['seed'].nunique()} seeds; "
        f"chance is {1 / records['classes'].max():.0%}. "
        f"Accuracy: mean and standard deviation over seeds; sparse is the level nearest {left(HIGH)} of prunable weights."
    )
    blocks = [said, _table(["Net", "Parameters", *kinds], nets)]
    if not record:
        return blocks
    hardware = record["hardware"]
    versions = ", ".join(f"{name} {record['versions'][name]}" for name in ("python", "torch", "tombola"))
    machine = (
        f"`{record['command']}`, {record['date']}, on {hardware.get('gpu') or hardware['cpu']} ({hardware['cores']} cores, "
        f"{record.get('jobs', 1)} processes, {record['threads']} thread each), {versions}. {record.get('note', '')}"
    )
    spent = [
        [f"`{row['study']}`", f"{row['trainings_run']} of {row['trainings']}"]
        + [duration(row[f"{clock}_seconds"]) for clock in ("wall", "alone")]
        for row in record["studies"]
    ]
    total, runs = (sum(row[name] for row in record["studies"]) for name in ("wall_seconds", "trainings_run"))
    spent.append(["all", str(runs), f"**{duration(total)}**", ""])
    times = _table(["Study", "new trainings", "time by the clock", "alone, with what it shares"], spent)
    return [*blocks, *_folded("Machine and times", [machine, times])]


def _accuracy(pool: Pool, model: str, pick: Pick, where: str) -> str:
    try:
        found = pick.grid(pool, model, "accuracy")
        level = 0 if where == "dense" else level_near(found, found, HIGH)
    except Missing:
        return NONE
    values = pd.Series([value for (_, at), value in found.values.items() if at == level])
    return ACCURACY.spread(float(values.mean()), float(values.std())) + "%"


def _short(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with nets named by the settings that the first net of their model, which most claims use, lacks."""
    firsts: dict[str, list[str]] = {}
    named_short = []
    for row in rows:
        model, *settings = row.net.split(", ")
        home = firsts.setdefault(model, settings)
        named_short.append(replace(row, net=", ".join([model, *(each for each in settings if each not in home)])))
    return named_short


def _place(row: Row) -> str:
    number = row.claim.id[0]
    return ELSEWHERE.get(row.claim.id) or next((name for name, (_, n) in SECTIONS.items() if n == number), "")


def _image(size: str, section: str) -> str:
    what = DRAWN[section][1]
    numbers = f"([numbers](paper/{size}-{section}.csv))"
    return f"![{what}](paper/{size}-{section}.png)\n\n*{what}.* Size `{size}`. {numbers}"


def _folded(title: str, blocks: Sequence[str]) -> list[str]:
    return [f"<details>\n<summary>{title}</summary>", *blocks, "</details>"] if blocks else []


def _minus(text: str) -> str:
    return (
        text.replace(" -", f" {MINUS}").replace("[-", f"[{MINUS}") if not text.startswith("-") else MINUS + _minus(text[1:])
    )


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _filled(block: str) -> str:
    """Return the block in lines of at most 125 letters, unless it is a table, an image, a list or markup."""
    if block.startswith(("|", "![", "- ", "#", "<")):
        return block
    return fill(" ".join(block.split()), 125, break_on_hyphens=False, break_long_words=False)
