"""Options of `tombola run` for clusters, checked before anything is imported or submitted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal

from tombola.errors import TombolaError


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Cluster whose processes run the stages, with the options of `tombola run` that say how."""

    engine: Literal["ray", "slurm"]
    device: str
    """auto, cpu or cuda; chosen on each node."""
    address: str | None = None
    """Address of a running Ray cluster; None starts one on this machine."""
    gpu_share: float = 1.0
    """Part of a GPU that a Ray task asks for."""
    minutes: float | None = None
    """Minutes after which a SLURM job stops and is queued again."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of SLURM, by name."""


def elsewhere(
    engine: Literal["local", "ray", "slurm"],
    device: str,
    address: str | None,
    gpu_share: float,
    minutes: float | None,
    slurm: Sequence[str],
    devices: int = 1,
    concurrent: int | None = None,
) -> Elsewhere | None:
    """Return the cluster of these options; None for this machine. Raises TombolaError for options that do not fit."""
    if minutes is not None and not 0 < minutes < math.inf:
        raise TombolaError(f"--minutes is {minutes:g}; give a number above 0, as --minutes 9.5")
    if devices > 1 and (engine == "ray" or concurrent is not None):
        other = "--engine ray" if engine == "ray" else "--concurrent"
        raise TombolaError(f"--devices {devices} is for --engine local and slurm, without --concurrent; leave {other} out")
    if engine == "slurm" and concurrent is not None:
        raise TombolaError(
            f"--concurrent {concurrent} is for --engine local and ray; leave it out: SLURM's jobs train one at a time"
        )
    for option, wanted, given in (
        ("--address", "ray", address is not None),
        ("--gpu-share", "ray", gpu_share != 1.0),
        ("--slurm", "slurm", bool(slurm)),
    ):
        if given and engine != wanted:
            raise TombolaError(f"{option} is for --engine {wanted}, not for {engine}; leave it out or add --engine {wanted}")
    for option, asked, library, extra in (
        (f"--devices {devices}", devices > 1, "lightning_fabric", "fabric"),
        ("--engine ray", engine == "ray", "ray", "ray"),
        ("--engine slurm", engine == "slurm", "submitit", "slurm"),
    ):
        if asked and not _installed(library):
            raise TombolaError(
                f"{option} needs {library.replace('_', '-')}; install it with: pip install 'tombola[{extra}]'"
            )
    options: dict[str, str] = {}
    for text in slurm:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or not value:
            raise TombolaError(f"--slurm {text!r} is not NAME=VALUE; write it as --slurm partition=gpu")
        options[name] = value
    if engine == "local":
        return None
    return Elsewhere(engine=engine, device=device, address=address, gpu_share=gpu_share, minutes=minutes, options=options)


def _installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ValueError:  # blocked by None in sys.modules
        return False
