"""The figures of docs/paper.md: for each a row of small plots for each quantity or kind, a column for each net."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from benchmarks.paper import picks as p
from benchmarks.paper.picks import Pick, Pool
from tombola.claims.curves import DETERMINISTIC, SNR, control
from tombola.claims.nets import family_of, nets_of
from tombola.claims.paper.claims import RATES
from tombola.metrics.column import Column, left
from tombola.metrics.columns import RECORDS
from tombola.report import text
from tombola.report.analyses import against, over_seeds
from tombola.report.figures import COLOURS, Cell, Drawing, Style, grid, styles
from tombola.report.overview import PLACE, Spot, layer_cells, measured_cells
from tombola.report.panels import Panel, panels
from tombola.report.quantities import ACCURACY, MACE
from tombola.report.statistics import by_seed, density_at, levels, shared_level

DOTS = 130
"""Dots per inch."""


@dataclass(frozen=True)
class Plot:
    """A figure of the page, the sentences under it, and the section that it is in."""

    section: str
    name: str
    drawing: Drawing
    caption: str

    def write(self, folder: Path) -> None:
        """Write a small PNG, and the numbers as CSV."""
        buffer = io.BytesIO()
        self.drawing.figure.savefig(buffer, format="png", dpi=DOTS, metadata={"Software": None})
        Image.open(buffer).convert("RGB").quantize(64).save(folder / f"{self.name}.png", optimize=True)
        self.drawing.numbers.to_csv(folder / f"{self.name}.csv", index=False, float_format="%.6g", lineterminator="\n")


@dataclass(frozen=True)
class Row:
    """A row of small plots: their quantity, their curves, and a word for their titles."""

    quantity: Column
    picks: Sequence[Pick]
    words: str = ""


ARMS = {"reinit": "re-init", "shuffle_layerwise": "layer-wise", "shuffle_even": "even", "shuffle_global": "global"}
KINDS = {"Bayesian": p.SNR, "deterministic": p.DET}

ROWS: dict[tuple[str, str, str], list[Row]] = {
    ("scores", "scores", "Accuracy and MACE over weights left, by score (the paper's figure 1)"): [
        Row(quantity, [p.SNR, p.MU, p.SQUARE, p.DET]) for quantity in (ACCURACY, MACE)
    ],
    ("scores", "scores-controls", "Does sigma count? snr beside its controls, and scores as the paper's code has them"): [
        Row(ACCURACY, [p.SNR, p.START, p.SHUFFLED, p.SLOW, p.SNR_CODED, p.SQUARE_CODED])
    ],
    ("randomise", "randomise", "Weights drawn anew, and masks shuffled (figures 3 and 4)"): [
        Row(ACCURACY, [ticket, *(Pick(words, control(arm, ticket.curve)) for arm, words in ARMS.items())], kind)
        for kind, ticket in KINDS.items()
    ],
    ("transplant", "transplant", "Transplants beside both kinds of tickets, and their controls (figures 5 and 9)"): [
        Row(quantity, [p.SNR, p.DET, p.MOVED, p.MOVED_SHUFFLED, p.MOVED_REDRAWN]) for quantity in (ACCURACY, MACE)
    ],
    ("rewind", "rewind", "Learning-rate rewinding and weight rewinding (figure 8), and the latter at equal budget"): [
        Row(ACCURACY, picks, kind) for kind, picks in p.REWOUND.items()
    ],
    ("calibration", "calibration", "MACE of the top label, and of every class as in the paper's code"): [
        Row(quantity, [p.SNR, p.DET, p.MOVED, p.BATCH]) for quantity in (MACE, RECORDS["mace_coded"])
    ],
}  # fmt: skip


def plots(pool: Pool, analyses: pd.DataFrame) -> list[Plot]:
    """Return all figures for which there are records. Within matplotlib.rc_context(tombola.report.images.SETTINGS)."""
    found = [_plot(*key, _spots(pool, rows), rows) for key, rows in ROWS.items()]
    found += [_layers(pool), _sizes(pool), _rates(pool), _overlap(pool, analyses)]
    return [plot for plot in found if plot]


Measured = list[tuple[Column, Spot]]


def _spots(pool: Pool, rows: Sequence[Row]) -> Measured:
    return [
        found
        for i, row in enumerate(rows)
        for j, model in enumerate(pool.models)
        for found in _spot(
            i, j, f"{model}, {row.words}" if row.words else model, [pick.of(pool, model) for pick in row.picks], row.quantity
        )
    ]


def _spot(row: int, column: int, title: str, parts: list[pd.DataFrame], quantity: Column) -> Measured:
    records = pd.concat(parts, ignore_index=True)
    if records.empty:
        return []
    (panel,) = panels(records.assign(variant="", model=family_of(records["model"].iloc[0])))
    return [(quantity, Spot(row, column, title, panel, list(records["curve"].unique())))]


def _plot(section: str, name: str, what: str, spots: Measured, rows: Sequence[Row] = ()) -> Plot | None:
    cells = [cell for quantity, spot in spots for cell in measured_cells([spot], quantity)]
    if not cells:
        return None
    orders = [[pick.words for pick in row.picks] for row in rows] or [[curve for _, spot in spots for curve in spot.curves]]
    look = dict[str, Style]()
    for order in orders:  # rows of other curves of the same kinds have the same colours
        look |= styles(list(dict.fromkeys(order)))
    seen = " ".join(f"{spot.name}: {_ranked(spot.panel, quantity)}" for quantity, spot in spots)
    calibrated = any(quantity.name.startswith("mace") for quantity, _ in spots)
    grey = " Grey: what a perfectly calibrated model would show." if calibrated else ""
    seeds = text.seeds(spots[0][1].panel, spots[0][0])
    return Plot(section, name, grid(cells, look, "density"), f"{what}. {text.MARKS} {seeds}{grey} {seen}")


def _ranked(panel: Panel, quantity: Column) -> str:
    """Return the curves' means at the sparsest level that all have, best first."""
    known = [curve for curve in panel.curves if levels(panel.records, curve, quantity.name)]
    level = shared_level(panel.records, known, quantity.name)
    if level is None:
        return "no level in common."
    means = [(float(by_seed(panel.records, curve, level, quantity.name).mean()), curve) for curve in known]
    ranked = sorted(means, reverse=quantity.higher_is_better)
    shown = ", ".join(f"{quantity.show(mean)} ({curve})" for mean, curve in ranked)
    return f"{quantity.label} at {left(density_at(panel.records, level))} left {shown}."


def _layers(pool: Pool) -> Plot | None:
    picks = [p.SNR, p.MU, p.DET]
    cells = layer_cells([spot for _, spot in _spots(pool, [Row(ACCURACY, picks)])])
    if not cells:
        return None
    drawing = grid(cells, styles([pick.words for pick in picks]), PLACE)
    what = "Density of each prunable tensor over its place in the network, at the last level (figure 2)"
    return Plot("layers", "layers", drawing, f"{what}. {text.MARKS} A tensor at 0 is empty.")


def _sizes(pool: Pool) -> Plot | None:
    spots: Measured = []
    for column, home in enumerate(pool.models):
        own = [str(model) for model in pool.records["model"].unique() if family_of(str(model)) == family_of(home)]
        kinds = {"snr": SNR, "deterministic": DETERMINISTIC}
        parts = [Pick(f"{model}, {words}", curve).of(pool, model) for model in own for words, curve in kinds.items()]
        spots += _spot(0, column, family_of(home), parts, ACCURACY) if len(own) > 1 else []
    return _plot("size", "size", "Larger and smaller nets of each family (figure 6)", spots)


def _rates(pool: Pool) -> Plot | None:
    spots: Measured = []
    nets = {net.model: net for net in reversed(nets_of(pool.records, RATES)) if len(net.rates(SNR)) > 1}
    for column, model in enumerate(model for model in pool.models if model in nets):
        rows = SNR.of(nets[model].rows).drop_duplicates(["lr", "warmup_epochs", "seed", "level"])
        warm = rows["warmup_epochs"].gt(0).map({True: ", warm-up", False: ""})
        words = "learning rate " + rows["lr"].map("{:g}".format) + warm
        spots += _spot(0, column, model, [rows.assign(curve=words)], ACCURACY)
    return _plot("rate", "rate", "Snr tickets by learning rate and warm-up (figure 7)", spots)


def _overlap(pool: Pool, analyses: pd.DataFrame) -> Plot | None:
    """Return the overlap of snr tickets' masks with other masks, beside the overlap of random masks."""
    first, *others = p.CURVES
    cells, look = [], dict[str, Style]()
    for i, other in enumerate(others):
        words = _pair(other)
        look |= {words: {"color": COLOURS[i], "marker": "osv"[i], "linestyle": "-"}}
        look |= {f"chance of {words}": {"color": COLOURS[i], "marker": "", "linestyle": ":"}}
    for column, model in enumerate(pool.models if len(analyses) else ()):
        own = analyses[(analyses["view"] == "overlap") & (analyses["between"] == "curves") & (analyses["model"] == model)]
        own = against(own[own["variant"].fillna("") == ""], first)
        own = own[own["other"].isin(others)].drop_duplicates(["other", "seed_a", "level_a"])
        if own.empty:
            continue
        x = 100 * own.groupby(["other", "level_a"])["density"].transform("mean")
        points = over_seeds(own.assign(line=own["other"].map(_pair), x=x), "line", "x").rename(columns={"line": "curve"})
        chance = points["chance"]
        random = points.assign(curve="chance of " + points["curve"], mean=chance, low=chance, high=chance)
        points = pd.concat([points, random], ignore_index=True).drop(columns="chance")
        cells.append(Cell(row=0, column=column, title=model, axis="Jaccard index", points=points))
    if not cells:
        return None
    least = left(min(cell.points["x"].min() for cell in cells) / 100)
    words = "Overlap of masks of one seed over weights left, beside what two random masks of the same layer densities share"
    return Plot("scores", "overlap", grid(cells, look, "density"), f"{words}, down to {least} left. {text.MARKS}")


def _pair(other: str) -> str:
    return f"{p.SNR.words} and {p.CURVES[other].words}"
