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
_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
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
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Processes that share stages and cores; default: as many as fit if the study has 'threads' and is long.",
        ),
    ] = None,
    concurrent: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Trainings with CUDA graphs side by side on a GPU; default: found by timing the first ones.",
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of finished stages; default: tombola-stages beside DIR."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(metavar="M", help="Stop after M minutes with exit code 3; the same command continues the run."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print failures alone, on stderr.")] = False,
) -> int:
    """Run studies: train, prune, evaluate, write records and a report. The same command resumes a killed run."""
    from .run import run_studies

    return run_studies(
        studies,
        out=out,
        changes=set_ or [],
        device=device,
        dry_run=dry_run,
        store=store,
        jobs=jobs,
        minutes=minutes,
        quiet=quiet,
        concurrent=concurrent,
    )


@_command
def status(
    folder: _Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until the run ends or Ctrl-C.")] = False,
    json: _Json = False,
    allow_imports: _AllowImports = False,
) -> int:
    """Show which stages of a study are done, which run now, the time left, and the store's size."""
    from .commands import show_status

    with plugins.imports(allowed=allow_imports):
        return show_status(folder, watch, json)


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
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the table as CSV; -: print it.")] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write it as JSON, with every part; -: print it instead.")
    ] = None,
) -> int:
    """Judge the claims of arXiv 2602.18825 by the records of one or several studies."""
    from .judging import judge_claims

    return judge_claims(folders, csv, json)


@_command
def studies(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Print the YAML of this study.")] = None,
    json: _Json = False,
) -> int:
    """List the shipped studies with their costs, or print one."""
    from .commands import list_studies

    return list_studies(name, json)


@_command
def clean(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Folders that 'tombola run' wrote to, of one store, or the store's folder."),
    ],
    keep: Annotated[
        Literal["nothing", "masks"],
        typer.Option(help="masks: keep each pruning's mask, so that any ticket can be trained again alone."),
    ] = "nothing",
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Also remove stages that none of these studies, or those beside them, has.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without it nothing is removed.")] = False,
    json: _Json = False,
    allow_imports: _AllowImports = False,
) -> int:
    """Show what of a store no study needs any more, and with --yes remove it; records, pages and figures stay."""
    from .clean import clean_store

    with plugins.imports(allowed=allow_imports):
        return clean_store(folders, keep_masks=keep == "masks", orphans=orphans, yes=yes, as_json=json)


@_command
def evaluate(
    ticket: Annotated[
        str, typer.Argument(metavar="TICKET", help="The file of a trained ticket, or a key of the store, or its beginning.")
    ],
    samples: Annotated[int, typer.Option(min=1, help="Number of weight samples of the predictive distribution.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weight samples.")] = 0,
    batch_norm: Annotated[
        Literal["samples", "running", "batch"],
        typer.Option(
            "--batch-norm",
            help="Batch-norm statistics: of each weight sample (on training data), running ones, or of each test batch.",
        ),
    ] = "samples",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Number of examples in a forward pass.")] = 1024,
    split: Annotated[
        Literal["test", "validation"], typer.Option(help="Test examples, or those held out of the training data.")
    ] = "test",
    device: _Device = "auto",
    store: Annotated[Path, typer.Option(metavar="DIR", help="Folder of finished stages, for a key.")] = Path(
        "runs/tombola-stages"
    ),
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model as in a study, for a ticket that was saved from Python.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="Data as in a study, for such a ticket, or to measure on other data.")
    ] = None,
    json: _Json = False,
    allow_imports: _AllowImports = False,
) -> int:
    """Measure a trained ticket on the test or validation split of the data that it was trained on."""
    from tombola.settings import EvaluateSettings

    from .evaluate import evaluate as measured

    measure = EvaluateSettings(samples=samples, batch_norm=batch_norm, batch_size=batch_size, split=split)
    with plugins.imports(allowed=allow_imports):
        return measured(ticket, measure, seed=seed, device=device, store=store, model=model, data=data, as_json=json)


def main() -> None:
    """Entry point."""
    app()
