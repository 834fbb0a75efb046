"""The figure of trained tickets: accuracy and NLL over milliseconds, a curve for each way to predict."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.paper.figures import write
from benchmarks.record import Row
from tombola.report.figures import Drawing, with_legend
from tombola.report.images import SETTINGS
from tombola.report.looks import styles

QUALITIES = {"accuracy": "test accuracy (%, more is better)", "nll": "test NLL (nats, less is better)"}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the PNG, and its numbers as CSV beside it: a plot for each quality."""
    table = pd.DataFrame(rows)[["how", "level", "density", "milliseconds", *QUALITIES]]
    table["accuracy"] *= 100
    look = styles(list(table["how"].unique()))
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(7.6, 3.6))
        for i, (name, label) in enumerate(QUALITIES.items()):
            axes = figure.add_axes((0.08 + 0.5 * i, 0.3, 0.4, 0.6))
            for how, some in table.groupby("how", sort=False):
                axes.plot(some["milliseconds"], some[name], label=how, **look[str(how)])
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(f"ms for {rows[0]['batch']} images (log scale)")
            axes.set_ylabel(label)
        write(Drawing(with_legend(figure), table, (), 2), path.parent, path.stem)
