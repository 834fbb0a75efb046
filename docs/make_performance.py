"""Prints docs/performance.md from the records in results/: python docs/make_performance.py > docs/performance.md"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks is no installed package

from benchmarks.nets import NETS  # noqa: E402

RESULTS = ROOT / "results"

HEAD = """# Performance

<!-- Made by `python docs/make_performance.py > docs/performance.md` from the records in results/. Do not edit. -->

What a training step costs, as a ratio to the same step of a plain torch loop that trains the same network deterministically
(same fused Adam, same batch), all configurations in turn in one process, medians. Before anything is timed, the gradients
are compared with autograd's. Measure your own machine with the command that is named; it exits with 1 where a target is
missed.
"""

TAIL = """
`map` is tombola's own deterministic training, `vi` variational inference by weight samples; the others are
[estimators and objectives](estimators.md). In brackets: the target. The MLP's step is so short that Adam on twice the
state, the draw and the noise show; convolutions and attention hide them.

## An epoch of images
"""


def page() -> str:
    """The whole page."""
    steps = json.loads((RESULTS / "step-cost-cpu-1-thread.json").read_text())
    data = json.loads((RESULTS / "data-cpu-1-thread.json").read_text())
    rows = steps["rows"]
    head = ["", *(f"{row['net']}, batch {row['batch']}" for row in rows)]
    lines = [
        "| " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * len(rows),
        "| deterministic step | " + " | ".join(f"{row['milliseconds']['deterministic']:.0f} ms" for row in rows) + " |",
    ]
    for label in rows[0]["ratio"]:
        if label != "deterministic":
            lines.append(f"| {label} | " + " | ".join(_ratio(row, label) for row in rows) + " |")
    epochs = [f"| {row['data']}, {row['how']} | {row['seconds']:.2f} s |" for row in data["rows"]]
    return "\n".join(
        [
            HEAD,
            _where(steps),
            "",
            *lines,
            TAIL,
            "50,000 images of 3x32x32 gathered in shuffled order, mirrored, cropped and normalised, in batches of 128\n"
            "(target: 8 s). Resident is from memory, streamed from a memory map that is read batch by batch.",
            "",
            _where(data),
            "",
            "| Data | An epoch |",
            "| --- | ---: |",
            *epochs,
            "",
        ]
    )


def _ratio(row: dict, label: str) -> str:
    """A ratio with its target, bold where it is missed."""
    net, ratio = NETS[row["net"]], row["ratio"][label]
    target = {"vi": net.target, "local": net.local_target}.get(label)
    if target is None:
        return f"{ratio:.2f}"
    return f"{ratio:.2f} (≤ {target:.2f})" if ratio <= target else f"**{ratio:.2f}, missed** (≤ {target:.2f})"


def _where(record: dict) -> str:
    return (
        f"`{record['command'].strip()}`, {record['date']}: torch {record['torch']}, Python {record['python']}, "
        f"{record['machine']} with {record['cpu']}, threads: {record['threads']}."
    )


if __name__ == "__main__":
    print(page(), end="")
