"""The command line. Heavy imports wait until a command needs them, so that --help is quick."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tombola.errors import TombolaError

app = typer.Typer(
    help="Find, study and ship sparse Bayesian neural networks through lottery tickets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _command(function: Callable[..., int]) -> Callable[..., None]:
    """Registers a command that returns its exit code; a TombolaError is one sentence and exit code 2."""

    @app.command(name=function.__name__.rstrip("_"), help=function.__doc__)
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            code = function(*args, **kwargs)
        except TombolaError as error:
            typer.echo(f"tombola: {error}", err=True)
            code = 2
        except KeyboardInterrupt:
            typer.echo("tombola: interrupted", err=True)
            code = 130
        except BrokenPipeError:  # the reader of our output has gone
            code = 0
        raise typer.Exit(code)

    return wrapped


_Studies = Annotated[
    list[str],
    typer.Argument(
        metavar="STUDY...", help="Shipped studies by name, or a whole folder of them, as 'paper'; or paths of YAML files."
    ),
]
_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder that 'tombola run' wrote to.")]
_Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train; auto takes a GPU if there is one.")]


@_command
def run(
    studies: _Studies,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Output folder; by default runs/NAME. Of several studies the folder of theirs."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change a setting, as train.epochs=20.")
    ] = None,
    device: _Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the graph, what is done, and a time forecast.")] = False,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Processes that share the work, and the cores.")] = 1,
    store: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Finished stages; by default tombola-stages beside the output.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(metavar="M", help="Stop after so many, with exit code 3; the same command goes on.")
    ] = None,
) -> int:
    """Run studies: train, prune, evaluate, and write records and a report. The same command resumes a killed run."""
    from .run import run_studies

    return run_studies(
        studies, out=out, changes=set_ or [], device=device, dry_run=dry_run, store=store, jobs=jobs, minutes=minutes
    )


@_command
def status(
    folder: _Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second till the run ends or Ctrl-C.")] = False,
) -> int:
    """Show what of a study is done, what runs now and the time left, from any terminal."""
    from .commands import show_status

    return show_status(folder, watch)


@_command
def report(
    folder: _Folder,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page; by default DIR/report.html.")] = None,
) -> int:
    """Write the report of a study, finished or not."""
    from .commands import make_report

    return make_report(folder, out)


@_command
def compare(
    first: _Folder,
    second: _Folder,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page; figures go beside it.")] = Path("comparison.html"),
) -> int:
    """Compare two studies on one page: common figures, paired gaps, and the settings that differ."""
    from .commands import compare_studies

    return compare_studies(first, second, out)


@_command
def claims(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders that 'tombola run' wrote to, or records' .parquet files.")
    ],
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table as CSV too.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as JSON too, with every part.")] = None,
) -> int:
    """Judge the claims of arXiv 2602.18825 by the records of one or several studies, claim by claim."""
    from .commands import judge_claims

    return judge_claims(folders, csv, json)


@_command
def studies(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print this study's YAML.")] = None,
) -> int:
    """List the studies that are shipped with what they cost, or print one."""
    from .commands import list_studies

    return list_studies(name)


@_command
def evaluate(
    ticket: Annotated[Path, typer.Argument(metavar="TICKET", help="A ticket's .safetensors file.")],
    samples: Annotated[int, typer.Option(min=1, help="Weight samples of the predictive distribution.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Names the noise of the weight samples.")] = 0,
    batch_norm: Annotated[
        Literal["running", "batch"],
        typer.Option("--batch-norm", help="Statistics of batch-norm layers: of training, or of each test batch."),
    ] = "running",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Examples a forward pass.")] = 1024,
    split: Annotated[
        Literal["test", "validation"], typer.Option(help="Held-out examples of the data that the ticket was trained on.")
    ] = "test",
    device: _Device = "auto",
) -> int:
    """Measure a trained ticket on the test split of the data it was trained on, or on its validation split."""
    from tombola.settings import EvaluateSettings

    from .commands import evaluate_file

    measure = EvaluateSettings(samples=samples, batch_norm=batch_norm, batch_size=batch_size, split=split)
    return evaluate_file(ticket, measure, seed, device)


def main() -> None:
    """Entry point."""
    app()
