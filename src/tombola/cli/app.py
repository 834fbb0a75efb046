"""The command line's commands and options. Heavy imports wait until a command needs them, so that --help is quick."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import tombola
from tombola import plugins
from tombola.errors import TombolaError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tombola {tombola.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find, study and ship sparse Bayesian neural networks through lottery tickets."""


def _command(function: Callable[..., int]) -> Callable[..., None]:
    """Register a command that returns its exit code; a TombolaError is one sentence and exit code 2."""

    @app.command(name=function.__name__, help=function.__doc__)
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
        metavar="STUDY...",
        help="Shipped studies by name, a folder of them (such as 'paper'), or paths of YAML files.",
    ),
]
_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder that 'tombola run' wrote to.")]
_Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device; auto: a GPU if there is one.")]
_AllowImports = Annotated[
    bool,
    typer.Option("--allow-imports", help="Import modules that the files name, and so run their code: for files you trust."),
]
_Formats = Annotated[str, typer.Option(metavar="LIST", help="Formats of the figures, beside CSV: any of png,svg,pdf.")]


@_command
def run(
    studies: _Studies,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Output folder; default: runs/NAME. With several studies: their parent folder."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a setting, such as train.epochs=20. May be repeated."),
    ] = None,
    device: _Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the stages, which of them are done, and a time forecast; write nothing.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Processes that share the stages and the cores.")] = 1,
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of finished stages; default: tombola-stages beside DIR."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(metavar="M", help="Stop after M minutes with exit code 3; the same command continues the run."),
    ] = None,
) -> int:
    """Run studies: train, prune, evaluate, write records and a report. The same command resumes a killed run."""
    from .run import run_studies

    return run_studies(
        studies, out=out, changes=set_ or [], device=device, dry_run=dry_run, store=store, jobs=jobs, minutes=minutes
    )


@_command
def status(
    folder: _Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until the run ends or Ctrl-C.")] = False,
    allow_imports: _AllowImports = False,
) -> int:
    """Show which stages of a study are done, which run now, and the time left."""
    from .commands import show_status

    with plugins.imports(allowed=allow_imports):
        return show_status(folder, watch)


@_command
def report(
    folder: _Folder,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page; default: DIR/report.html.")] = None,
    formats: _Formats = "png",
    allow_imports: _AllowImports = False,
) -> int:
    """Write the report of a study, finished or not: a page, and its figures as files."""
    from .commands import make_report

    with plugins.imports(allowed=allow_imports):
        return make_report(folder, out, formats)


@_command
def compare(
    first: _Folder,
    second: _Folder,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page; figures go beside it.")] = Path("comparison.html"),
    formats: _Formats = "png",
    allow_imports: _AllowImports = False,
) -> int:
    """Compare two studies on one page: common figures, paired gaps, and the settings that differ."""
    from .commands import compare_studies

    with plugins.imports(allowed=allow_imports):
        return compare_studies(first, second, out, formats)


@_command
def claims(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Folders that 'tombola run' wrote to, or .parquet records."),
    ],
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the table as CSV.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write it as JSON, with every part.")] = None,
) -> int:
    """Judge the claims of arXiv 2602.18825 by the records of one or several studies."""
    from .commands import judge_claims

    return judge_claims(folders, csv, json)


@_command
def studies(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print the YAML of this study.")] = None,
) -> int:
    """List the shipped studies with their costs, or print one."""
    from .commands import list_studies

    return list_studies(name)


@_command
def evaluate(
    ticket: Annotated[Path, typer.Argument(metavar="TICKET", help="The .safetensors file of a trained ticket.")],
    samples: Annotated[int, typer.Option(min=1, help="Number of weight samples of the predictive distribution.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weight samples.")] = 0,
    batch_norm: Annotated[
        Literal["running", "batch"],
        typer.Option("--batch-norm", help="Batch-norm statistics: running ones of training, or those of each test batch."),
    ] = "running",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Number of examples in a forward pass.")] = 1024,
    split: Annotated[
        Literal["test", "validation"], typer.Option(help="Test examples, or those held out of the training data.")
    ] = "test",
    device: _Device = "auto",
    allow_imports: _AllowImports = False,
) -> int:
    """Measure a trained ticket on the test or validation split of the data that it was trained on."""
    from tombola.settings import EvaluateSettings

    from .commands import evaluate_file

    measure = EvaluateSettings(samples=samples, batch_norm=batch_norm, batch_size=batch_size, split=split)
    with plugins.imports(allowed=allow_imports):
        return evaluate_file(ticket, measure, seed, device)


def main() -> None:
    """Entry point."""
    app()
