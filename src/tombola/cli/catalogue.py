"""The table of shipped studies with their costs, which benchmarks/costs.py measured and wrote to studies/costs.json."""

import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .terminal import duration

SIZES = {"cpu": "measured", "gpu": "forecast", "full": "forecast"}
"""Size -> origin of its numbers."""
_UNKNOWN = "-"


def costs() -> dict[str, Any]:
    """Return the costs: size -> "studies", name -> seconds alone and added, trainings; hardware, or assumptions."""
    return json.loads((resources.files("tombola") / "studies" / "costs.json").read_text())


def studies_table(descriptions: Mapping[str, str], known: Mapping[str, Any]) -> RenderableType:
    """Return a row for each study, with its time at each size, and a legend. known: as `costs` gives them."""
    table = Table(title="shipped studies: tombola run NAME", title_justify="left", show_lines=True)
    table.add_column("name", no_wrap=True)
    table.add_column("what it asks", ratio=1)
    for size, origin in SIZES.items():
        table.add_column(f"{size}\n{origin}", justify="right", no_wrap=True)
    for study, description in descriptions.items():
        table.add_row(study, Text(first_sentence(description)), *(cell(known, size, study) for size in SIZES))
    return Group(table, *(Text(line, style="dim") for line in legend(known)))


def first_sentence(description: str) -> str:
    """Return the first sentence, in one line."""
    return re.split(r"(?<=[.?!])\s", " ".join(description.split()), maxsplit=1)[0]


def cell(known: Mapping[str, Any], size: str, study: str) -> str:
    """Return the time of a study alone and, below it, the time that it adds; "-" where that is not known."""
    cost = known.get(size, {}).get("studies", {}).get(study)
    return f"{duration(cost['alone_seconds'])}\n+{duration(cost['added_seconds'])}" if cost else _UNKNOWN


def legend(known: Mapping[str, Any]) -> list[str]:
    """Return sentences that explain the numbers and name their origin."""
    said = [
        "Above: the time of a study alone; below (+): the time that it adds after the studies listed before it, as common "
        f"stages run once. {_UNKNOWN}: unknown. `tombola studies NAME` prints a study, --set size=SIZE chooses its size."
    ]
    if (cpu := known.get("cpu", {})).get("studies"):
        together = duration(sum(cost["added_seconds"] for cost in cpu["studies"].values()))
        said.append(
            f"cpu: measured on {cpu['hardware']}, {cpu['processes']} processes, {cpu['date']}: all together {together}. "
            "Added times are by the clock, with start and page; times alone are sums over stages."
        )
    else:
        said.append("cpu: not measured yet.")
    if assumed := known.get("assumed"):
        said.append(
            f"gpu, full: forecast for {assumed['device']}, never measured. Each training takes the larger of its counted "
            f"operations over an assumed {assumed['flops_per_second'] / 1e12:g} TFLOP/s, and an assumed "
            f"{1e6 * assumed['seconds_per_launch']:g} µs for each operation launched. Evaluations and pages come on top."
        )
    return said
