"""The figures of docs/paper.md: for each a row of small plots for each quantity or kind, a column for each net."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from paper_parts import (
    BATCH,
    BY_RATE,
    DET,
    EQUAL,
    MOVED,
    MOVED_REDRAWN,
    MOVED_SHUFFLED,
    MU_,
    SHUFFLED,
    SLOW,
    SNR_,
    SNR_CODED_,
    SQUARE_,
    SQUARE_CODED_,
    START,
    Pick,
    Pool,
)  # fmt: skip
from paper_views import overlap_rows

from tombola.claims.curves import DETERMINISTIC, SNR, control
from tombola.claims.nets import family_of
from tombola.metrics.column import Column
from tombola.metrics.columns import RECORDS
from tombola.report import text
from tombola.report.analyses import over_seeds
from tombola.report.figures import COLOURS, Cell, Drawing, Style, grid, styles
from tombola.report.overview import PLACE, Spot, layer_cells, measured_cells
from tombola.report.panels import Panel, panels
from tombola.report.quantities import ACCURACY, MACE, left
from tombola.report.statistics import by_seed, density_at, levels, shared_level


@dataclass(frozen=True)
class Plot:
    """A figure of the page, the sentences under it, and the section that it stands in."""

    section: str
    name: str
    drawing: Drawing
    caption: str


@dataclass(frozen=True)
class Row:
    """A row of small plots: what they show, of which curves, and a word for their titles."""

    quantity: Column
    picks: Sequence[Pick]
    words: str = ""


CODED = RECORDS["mace_coded"]
ARMS = {"reinit": "re-init", "shuffle_layerwise": "layer-wise", "shuffle_even": "even", "shuffle_global": "global"}


def _randomised(ticket: Pick) -> list[Pick]:
    return [ticket, *(Pick(words, control(arm, ticket.curve)) for arm, words in ARMS.items())]


ROWS: dict[tuple[str, str, str], list[Row]] = {
    ("scores", "scores", "Accuracy and MACE over weights left, by score (the paper's figure 1)"): [
        Row(quantity, [SNR_, MU_, SQUARE_, DET]) for quantity in (ACCURACY, MACE)
    ],
    ("scores", "scores-controls", "Does sigma count? snr beside its controls, and scores as the paper's code has them"): [
        Row(ACCURACY, [SNR_, START, SHUFFLED, SLOW, SNR_CODED_, SQUARE_CODED_])
    ],
    ("randomise", "randomise", "Weights drawn anew, and masks shuffled (figures 3 and 4)"): [
        Row(ACCURACY, _randomised(ticket), words) for ticket, words in ((SNR_, "Bayesian"), (DET, "deterministic"))
    ],
    ("transplant", "transplant", "Transplants beside both kinds of tickets, and their controls (figures 5 and 9)"): [
        Row(quantity, [SNR_, DET, MOVED, MOVED_SHUFFLED, MOVED_REDRAWN]) for quantity in (ACCURACY, MACE)
    ],
    ("rewind", "rewind", "Learning-rate rewinding and weight rewinding (figure 8), and the latter at equal budget"): [
        Row(ACCURACY, [ticket, BY_RATE[kind], EQUAL[kind]], kind)
        for kind, ticket in (("Bayesian", SNR_), ("deterministic", DET))
    ],
    ("calibration", "calibration", "MACE of the top label, and of every class as in the paper's code"): [
        Row(quantity, [SNR_, DET, MOVED, BATCH]) for quantity in (MACE, CODED)
    ],
}  # fmt: skip


def plots(pool: Pool, views: pd.DataFrame) -> list[Plot]:
    """All figures for which there are records. Within matplotlib.rc_context(tombola.report.images.SETTINGS)."""
    found = [_plot(*key, _spots(pool, rows), rows) for key, rows in ROWS.items()]
    found += [_layers(pool), _sizes(pool), _rates(pool), _overlap(pool, views)]
    return [plot for plot in found if plot]


def _spots(pool: Pool, rows: Sequence[Row]) -> list[tuple[Column, Spot]]:
    spots = []
    for i, row in enumerate(rows):
        for j, model in enumerate(pool.models):
            parts = [pick.of(pool, model) for pick in row.picks]
            title = f"{model}, {row.words}" if row.words else model
            spots += _spot(i, j, title, parts, row.quantity)
    return spots


def _spot(row: int, column: int, title: str, parts: list[pd.DataFrame], quantity: Column) -> list[tuple[Column, Spot]]:
    records = pd.concat(parts, ignore_index=True)
    if records.empty:
        return []
    (panel,) = panels(records.assign(variant="", model=family_of(records["model"].iloc[0])))
    return [(quantity, Spot(row, column, title, panel, list(records["curve"].unique())))]


def _plot(section: str, name: str, what: str, spots: list[tuple[Column, Spot]], rows: Sequence[Row] = ()) -> Plot | None:
    cells = [cell for quantity, spot in spots for cell in measured_cells([spot], quantity)]
    if not cells:
        return None
    order = [pick.words for row in rows for pick in row.picks] or [c for _, spot in spots for c in spot.curves]
    same = {curve: i % len(row.picks) for row in rows for i, curve in enumerate(pick.words for pick in row.picks)}
    look = styles(list(dict.fromkeys(order)))
    if len({row.words for row in rows}) > 1:  # rows of other curves of the same kinds: the same colours
        first = list(look.values())
        look = {curve: first[same[curve]] for curve in look}
    seen = " ".join(f"{spot.name}: {_ranked(spot.panel, quantity)}" for quantity, spot in spots)
    grey = " Grey: what a perfectly calibrated model would show." if any(q.name.startswith("mace") for q, _ in spots) else ""
    seeds = text.seeds(spots[0][1].panel, spots[0][0])
    return Plot(section, name, grid(cells, look, "density"), f"{what}. {text.MARKS} {seeds[:-1]}.{grey} {seen}")


def _ranked(panel: Panel, quantity: Column) -> str:
    """The curves' means at the sparsest level that all have, best first."""
    known = [curve for curve in panel.curves if levels(panel.records, curve, quantity.name)]
    level = shared_level(panel.records, known, quantity.name)
    if level is None:
        return "no level in common."
    means = [(float(by_seed(panel.records, curve, level, quantity.name).mean()), curve) for curve in known]
    ranked = sorted(means, reverse=quantity.higher_is_better)
    shown = ", ".join(f"{quantity.show(mean)} ({curve})" for mean, curve in ranked)
    return f"{quantity.label} at {left(density_at(panel.records, level))} left {shown}."


def _layers(pool: Pool) -> Plot | None:
    spots = [spot for _, spot in _spots(pool, [Row(ACCURACY, [SNR_, MU_, DET])])]
    cells = layer_cells(spots)
    if not cells:
        return None
    drawing = grid(cells, styles([SNR_.words, MU_.words, DET.words]), PLACE)
    what = "Density of each prunable tensor over its place in the network, at the last level (figure 2)"
    return Plot("layers", "layers", drawing, f"{what}. {text.MARKS} A tensor at 0 is empty.")


def _sizes(pool: Pool) -> Plot | None:
    models = pool.records.groupby("model", sort=False)["parameters"].max()
    spots = []
    for column, home in enumerate(pool.models):
        own = [str(model) for model in models.index if family_of(str(model)) == family_of(home)]
        if len(own) > 1:
            picks = [
                (m, Pick(f"{m}, {words}", curve))
                for m in own
                for words, curve in (("snr", SNR), ("deterministic", DETERMINISTIC))
            ]
            spots += _spot(0, column, family_of(home), [pick.of(pool, model) for model, pick in picks], ACCURACY)
    return _plot("size", "size", "Larger and smaller nets of each family (figure 6)", spots)


def _rates(pool: Pool) -> Plot | None:
    spots = []
    for column, model in enumerate(pool.models):
        rows = pool.rated(model)
        words = [
            f"learning rate {lr:g}" + (", warm-up" if warm else "")
            for lr, warm in zip(rows["lr"], rows["warmup_epochs"] > 0, strict=True)
        ]
        spots += _spot(0, column, model, [rows.assign(curve=words).drop_duplicates(["curve", "seed", "level"])], ACCURACY)
    return _plot("rate", "rate", "Snr tickets by learning rate and warm-up (figure 7)", spots)


PAIRS = [
    ("snr and deterministic tickets", "ticket (snr)", "deterministic (magnitude)"),
    ("snr and mu tickets", "ticket (snr)", "ticket (mu)"),
    ("snr tickets and snr with sigma as at its start", "ticket (snr)", "ticket (snr), sigma as at the start"),
]
"""Whose masks are compared: words, and the curves' names in the table of views."""


def _overlap(pool: Pool, views: pd.DataFrame) -> Plot | None:
    cells, look = [], dict[str, Style]()
    for i, (words, _, _) in enumerate(PAIRS):
        look |= {words: {"color": COLOURS[i], "marker": "osv"[i], "linestyle": "-"}}
        look |= {f"chance of {words}": {"color": COLOURS[i], "marker": "", "linestyle": ":"}}
    for column, model in enumerate(pool.models):
        parts = []
        for words, a, b in PAIRS:
            rows = overlap_rows(views, model, a, b)
            if rows.empty:
                continue
            rows = rows.assign(line=words, x=100 * rows.groupby("level_a")["density"].transform("mean"))
            points = over_seeds(rows, "line", "x").rename(columns={"line": "curve"})
            chance = points["chance"]
            parts += [points, points.assign(curve=f"chance of {words}", mean=chance, low=chance, high=chance)]
        if parts:
            points = pd.concat(parts, ignore_index=True).drop(columns="chance")
            cells.append(Cell(row=0, column=column, title=model, axis="Jaccard index", points=points))
    if not cells:
        return None
    least = left(min(cell.points["x"].min() for cell in cells) / 100)
    words = "Overlap of masks of one seed over weights left, beside what two random masks of the same layer densities share"
    return Plot("scores", "overlap", grid(cells, look, "density"), f"{words}, down to {least} left. {text.MARKS}")
