"""The command line's commands and options. Heavy imports wait until a command needs them, so that --help is quick."""

import functools
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import tombola
from tombola import plugins
from tombola.errors import TombolaError, is_out_of_memory
from tombola.study.messages import in_short, printable

from .export import export
from .options import (
    STORE,
    Address,
    AllowImports,
    Changes,
    Concurrent,
    Data,
    Device,
    Devices,
    DryRun,
    EngineName,
    Folder,
    Formats,
    GpuShare,
    Jobs,
    Json,
    Minutes,
    Model,
    Out,
    Quiet,
    Slurm,
    Store,
    StoreFolder,
    Studies,
    Trackers,
)
from .predict import predict

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes of a command that was ended by Ctrl-C, and by SIGTERM."""
_LONGEST = 300  # characters of a sentence
_MEMORY = "use smaller batches, or look for a size in the files that were given that is too large"

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


def _bounded(sentence: str) -> str:
    """Return one line of at most 300 characters: what was given is shortened first, then the middle, and not the mend."""
    line = printable(" ".join(part.strip() for part in sentence.splitlines()))
    if len(line) > _LONGEST:
        line = " ".join(in_short(word) for word in line.split(" "))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 125]} ... {line[-120:]}"


def _of_the_machine(error: Exception) -> str:
    """Return the sentence of an error of the machine's: out of memory, a path that it refuses. Empty for others."""
    if is_out_of_memory(error):
        return f"out of memory ({str(error) or 'MemoryError':.100}); {_MEMORY}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror}: {error.filename}; give another path"
    return ""


def _command(function: Callable[..., int]) -> Callable[..., None]:
    """Register a command that returns its exit code; a TombolaError is one sentence and exit code 2."""

    @app.command(name=function.__name__, help=function.__doc__)
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        from tombola.engine.sigterm import Terminated, interrupted_by_sigterm

        try:
            with interrupted_by_sigterm():
                code = function(*args, **kwargs)
        except TombolaError as error:
            typer.echo(f"tombola: {_bounded(str(error))}", err=True)
            code = 2
        except Terminated:
            typer.echo("tombola: terminated", err=True)
            code = TERMINATED
        except KeyboardInterrupt:
            typer.echo("tombola: interrupted", err=True)
            code = INTERRUPTED
        except BrokenPipeError:  # the reader of our output has gone
            code = 0
        except (MemoryError, RuntimeError, OSError) as error:
            if not (sentence := _of_the_machine(error)):
                raise
            typer.echo(f"tombola: {_bounded(sentence)}", err=True)
            code = 2
        raise typer.Exit(code)

    return wrapped


@_command
def run(
    studies: Studies,
    out: Out = None,
    set_: Changes = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    jobs: Jobs = None,
    devices: Devices = 1,
    concurrent: Concurrent = None,
    store: StoreFolder = None,
    minutes: Minutes = None,
    quiet: Quiet = False,
    engine: EngineName = "local",
    address: Address = None,
    gpu_share: GpuShare = 1.0,
    slurm: Slurm = None,
    tracker: Trackers = None,
) -> int:
    """Run studies: train, prune, evaluate, write records and a report. The same command resumes a killed run."""
    from .elsewhere import elsewhere

    there = elsewhere(engine, device, address, gpu_share, minutes, slurm or [], devices, concurrent)
    here = there is None and device != "cuda" and not dry_run and minutes is None and not tracker
    if here and _left_as_it_is(studies, out, set_ or [], store, quiet):
        return 0
    from .run import run_studies

    return run_studies(
        studies,
        out=out,
        changes=set_ or [],
        device=device,
        dry_run=dry_run,
        store=store,
        jobs=jobs,
        minutes=None if engine == "slurm" else minutes,
        quiet=quiet,
        devices=devices,
        concurrent=concurrent,
        elsewhere=there,
        trackers=tracker or [],
    )


def _left_as_it_is(studies: list[str], out: Path | None, changes: list[str], store: Path | None, quiet: bool) -> bool:
    """Print the results of one study of which all is done, where this is known without torch, and return True."""
    from tombola.engine.folder import StudyFolder
    from tombola.study.spec import read, shipped

    from .terminal import Screen, print_settled

    if len(studies) > 1 or not (studies[0] in shipped() or Path(studies[0]).is_file()):
        return False
    raw = read(studies[0], changes)
    folder = StudyFolder.of(raw, out or Path("runs") / str(raw["name"]), store, Path(studies[0]).parent)
    if folder.known is None or not folder.settled:
        return False
    print_settled(Screen(quiet=quiet), folder, alone=True)
    return True


@_command
def status(
    folder: Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every second until the run ends or Ctrl-C.")] = False,
    json: Json = False,
) -> int:
    """Show which stages of a study are done, which run now, the time left, and the store's size."""
    from .commands import show_status

    return show_status(folder, watch, json)


@_command
def report(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page; default: DIR/report.html.")] = None,
    formats: Formats = "png",
) -> int:
    """Write the report of a study, finished or not: a page, and its figures as files."""
    from .commands import make_report

    return make_report(folder, out, formats)


@_command
def compare(
    first: Folder,
    second: Folder,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page; figures go beside it.")] = Path("comparison.html"),
    formats: Formats = "png",
) -> int:
    """Compare two studies on one page: common figures, paired gaps, and the settings that differ."""
    from .commands import compare_studies

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
    json: Json = False,
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
    json: Json = False,
) -> int:
    """Show what of a store no study needs any more, and with --yes remove it; records, pages and figures stay."""
    from .clean import clean_store

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
    device: Device = "auto",
    store: Store = STORE,
    model: Model = None,
    data: Data = None,
    json: Json = False,
    allow_imports: AllowImports = False,
) -> int:
    """Measure a trained ticket on the test or validation split of the data that it was trained on."""
    from tombola.settings import EvaluateSettings

    from .evaluate import evaluate as measured

    measure = EvaluateSettings(samples=samples, batch_norm=batch_norm, batch_size=batch_size, split=split)
    with plugins.imports(allowed=allow_imports):
        return measured(ticket, measure, seed=seed, device=device, store=store, model=model, data=data, as_json=json)


_command(predict)
_command(export)


def main() -> None:
    """Entry point."""
    try:
        app()
    except SystemExit as end:
        if end.code in (INTERRUPTED, TERMINATED):
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError):
                    stream.flush()
            # at once: torch's threads were interrupted anywhere, and the interpreter's end has been seen to wait for them
            os._exit(int(end.code))
        raise
