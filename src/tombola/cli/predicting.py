"""The command predict: classes or intervals of new inputs by a trained ticket."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import nn

from tombola import plugins
from tombola.data.cache import progress
from tombola.data.placement import choose_device
from tombola.data.signature import Signature
from tombola.errors import TombolaError
from tombola.predict import ClassPrediction, Predictive
from tombola.predict.abstention import parse_target
from tombola.predict.predictive import signature_of
from tombola.predict.shipped import PICTURES, SHIPPED
from tombola.predict.sources import Piece, Source, open_source
from tombola.predict.writers import Columns, Write, check_ending, json_array, rows_of, writing
from tombola.pruning.ticket import Ticket, load

from .evaluate import built, data_of, named_by, ticket_path
from .terminal import Screen

SHOWN = 50
"""Rows that a terminal's table has; a file has all."""


@dataclass(frozen=True)
class Request:
    """Options of the command."""

    ticket: str
    inputs: str | None
    device: str
    store: Path
    model: str | None
    data: str | None
    split: str | None
    resize: bool
    out: Path | None
    as_json: bool
    quiet: bool
    abstain_at: str | None


def predict_inputs(request: Request, how: dict[str, Any]) -> int:
    """Print or write the predictions for the inputs. how: arguments of `Predictive`.

    Raises TombolaError for a ticket that is damaged, untrained, or lacks what is needed, and for inputs that do not fit.
    """
    target = parse_target(request.abstain_at) if request.abstain_at else None  # mistakes first: data may take long
    if request.out is not None:
        check_ending(request.out)
    path, given = _named(request)
    ticket = load(path)
    _ = ticket.posterior  # raises where there is no trained state
    module = _module(request, ticket, path).to(choose_device(request.device))
    signature = _signature(request, ticket, path)
    source = open_source(given, signature, resize=request.resize, split=request.split)
    predictive = Predictive(ticket, module, signature=signature, **how)
    console = Screen(stderr=True, quiet=request.quiet, soft_wrap=True, highlight=False, markup=False)
    if target is not None:
        predictive.check_abstains()  # before its data, which may take long to load
        examples, targets = data_of(ticket, path, request.data).held_out("validation")
        predictive = predictive.abstaining(examples, targets, **target)
        assert predictive.abstention is not None
        console.print(predictive.abstention.sentence())
    counts = _Counts()
    with _output(request, path) as write, progress(source.total, "predicting") as step:
        for columns in _predicted(predictive, source, how["batch"], counts):
            write(columns)
            for _ in columns["input"]:
                step()
    console.print(counts.sentence() + (f": {request.out}" if request.out else ""))
    return 0


def _named(request: Request) -> tuple[Path, str]:
    """Return the ticket's path, and the inputs: of a shipped ticket by default its own pictures."""
    shipped = request.ticket in SHIPPED and not Path(request.ticket).exists()
    if request.inputs is None and not shipped:
        raise TombolaError(f"no inputs are given for {request.ticket}; give a picture, a folder, a table or an array")
    path = ticket_path(request.ticket, request.store)
    return path, str(PICTURES[request.ticket]) if request.inputs is None else request.inputs


def _module(request: Request, ticket: Ticket, path: Path) -> nn.Module:
    """Return the ticket's model. Raises TombolaError where it is not named, or is another."""
    if request.model is None:
        if about := ticket.info.get("model"):
            return built(about, ticket)
        raise TombolaError(
            f"{path} does not name its model (it was saved from Python); give --model, a name or module:function, or save "
            "it by tombola.describe"
        )
    about = named_by(request.model, "--model")
    form = signature_of(ticket) or (data_of(ticket, path, request.data).signature if request.data else None)
    if form is None:
        raise TombolaError(f"{path} does not say what its inputs are; give --data as well, or save it by tombola.describe")
    with plugins.imports(allowed=True):  # the caller has typed it
        return built(about | {"input_shape": form.shape, "outputs": len(form.classes) or 1}, ticket)


def _signature(request: Request, ticket: Ticket, path: Path) -> Signature:
    """Return the form of the inputs: the ticket's own, or that of its data, which tickets of earlier versions name."""
    if (own := signature_of(ticket)) is not None:
        return own
    if request.data or ticket.info.get("data"):
        return data_of(ticket, path, request.data).signature
    return Signature(tuple(ticket.info["model"]["input_shape"]))


@dataclass
class _Counts:
    """Numbers of the inputs so far."""

    inputs: int = 0
    abstained: int = 0
    labelled: int = 0
    right: int = 0
    abstains: bool = False

    def add(self, piece: Piece, prediction: Any) -> None:
        self.inputs += len(prediction)
        if not isinstance(prediction, ClassPrediction):
            return
        refused = prediction.abstained
        self.abstains = prediction.abstention is not None
        self.abstained += int(refused.sum())
        if piece.labels is not None:
            accepted = [i for i, no in enumerate(refused.tolist()) if not no]
            self.labelled += len(accepted)
            self.right += sum(prediction.names[i] == piece.labels[i] for i in accepted)

    def sentence(self) -> str:
        parts = [f"{self.inputs:,} inputs" if self.inputs != 1 else "1 input"]
        parts += [f"{self.abstained:,} abstained"] if self.abstains else []
        answered = "of those answered " if self.abstains else ""
        parts += [f"{answered}{self.right:,} of {self.labelled:,} right by their folders' names"] if self.labelled else []
        return ", ".join(parts)


def _predicted(predictive: Predictive, source: Source, size: int, counts: _Counts) -> Iterator[Columns]:
    for piece in source.pieces(size):
        prediction = predictive(piece.inputs)
        counts.add(piece, prediction)
        labels = {} if piece.labels is None else {"label": piece.labels}
        yield {"input": piece.names, **prediction.columns(), **labels}


@contextmanager
def _output(request: Request, path: Path) -> Iterator[Write]:
    """Give the function that takes each piece: to a file, to JSON on stdout, or to a table in the terminal."""
    shown: list[dict[str, Any]] = []
    more = 0

    def keep(columns: Columns) -> None:
        nonlocal more
        rows = list(rows_of(columns))
        room = SHOWN - len(shown)
        shown.extend(rows[:room])
        more += len(rows[room:])

    with ExitStack() as stack:
        writes: list[Write] = []
        if request.out is not None:
            writes.append(stack.enter_context(writing(request.out)))
        if request.as_json:
            writes.append(stack.enter_context(json_array(sys.stdout)))
        elif request.out is None and not request.quiet:
            writes.append(keep)

        def write(columns: Columns) -> None:
            for one in writes:
                one(columns)

        yield write
    if shown:
        _show(shown, more, path.name)


def _show(rows: list[dict[str, Any]], more: int, title: str) -> None:
    """Print rows as a table that is as wide as its numbers need, whatever the terminal's width; names of inputs fold."""
    cells = [[_cell(value) for value in row.values()] for row in rows]
    table = Table(title=title)
    wide = 2
    for i, name in enumerate(rows[0]):
        numeric = isinstance(rows[0][name], float)
        width = max(len(name), *(len(row[i]) for row in cells))
        wide += 3 + (min(width, 12) if name == "input" else width)
        table.add_column(
            name,
            justify="right" if numeric else "left",
            no_wrap=name != "input",
            overflow="fold",
            min_width=None if name == "input" else width,
        )
    for row in cells:
        table.add_row(*row)
    console = Screen(highlight=False, markup=False)
    console.width = max(console.width, wide)
    console.print(table)
    if more:
        console.print(f"and {more:,} more; --out FILE has all")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
