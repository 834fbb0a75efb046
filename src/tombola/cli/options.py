"""Options of the command line's commands, each with its help."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Studies = Annotated[
    list[str],
    typer.Argument(
        metavar="STUDY...",
        help="Shipped studies by name, a folder of them (such as 'paper'), or paths of YAML files.",
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder that 'tombola run' wrote to.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device; auto: a GPU if there is one.")]
AllowImports = Annotated[
    bool,
    typer.Option("--allow-imports", help="Import modules that the files name, and so run their code: for files you trust."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Formats = Annotated[str, typer.Option(metavar="LIST", help="Formats of the figures, beside CSV: any of png,svg,pdf.")]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Output folder; default: runs/NAME. With several studies: their parent folder."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a setting, such as train.epochs=20. May be repeated."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the stages, which of them are done, and a time forecast; write nothing.")
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Processes that share stages and cores; default: as many as fit if the study has 'threads' and is long.",
    ),
]
Devices = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="GPUs, or processes on a CPU, that make the steps of each training together."),
]
Concurrent = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Trainings with CUDA graphs side by side on a GPU; default: found by timing the first ones.",
    ),
]
StoreFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of finished stages; default: tombola-stages beside DIR."),
]
Minutes = Annotated[
    float | None,
    typer.Option(metavar="M", help="Stop after M minutes with exit code 3; the same command continues the run."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print failures alone, on stderr.")]
EngineName = Annotated[
    Literal["local", "ray", "slurm"],
    typer.Option(help="Runner of the stages: this machine, a Ray cluster, or SLURM jobs; all share the store."),
]
Address = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Ray cluster: auto, or HOST:PORT; default: one is started on this machine."),
]
GpuShare = Annotated[float, typer.Option(min=0.01, max=1.0, metavar="F", help="Ray: part of a GPU that a task asks for.")]
Slurm = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="SLURM: an option of sbatch, such as partition=gpu. May be repeated."),
]
Trackers = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker",
        metavar="NAME",
        help="Also send learning curves and final numbers to mlflow, tensorboard or wandb. May be repeated.",
    ),
]
STORE = Path("runs/tombola-stages")
Store = Annotated[Path, typer.Option(metavar="DIR", help="Folder of finished stages, for a key.")]
Model = Annotated[
    str | None, typer.Option(metavar="NAME", help="Model as in a study, for a ticket that was saved from Python.")
]
Data = Annotated[
    str | None, typer.Option(metavar="NAME", help="Data as in a study, for such a ticket, or in place of the ticket's.")
]
